//! Which modules may use which. `src/lib.rs` describes the rules; this checks them, line by line.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A module, and what it may name with `crate::`. A module may always name itself. For the library `qwen-image`, which
/// is a separate crate, the compiler checks this.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("cli", &["app", "config", "telemetry", "worker", "queue", "database", "store", "image", "engine", "job", "trace"]),
    (
        "app",
        &[
            "config",
            "http",
            "retry",
            "telemetry",
            "worker",
            "queue",
            "database",
            "store",
            "egress",
            "image",
            "engine",
            "job",
            "trace",
        ],
    ),
    ("config", &["job"]),
    ("telemetry", &["trace"]),
    // Spans; anything that sends, receives or works has them.
    ("trace", &["job"]),
    // This module submits, watches and reads jobs, but computes nothing. It only observes the engine.
    ("http", &["telemetry", "queue", "database", "store", "egress", "image", "engine", "ui", "job", "trace"]),
    ("ui", &[]),
    ("worker", &["queue", "database", "store", "image", "engine", "job", "retry", "trace"]),
    // The stages do not know each other.
    ("queue", &["job", "retry", "trace"]),
    ("database", &["job"]),
    ("store", &["egress", "job", "retry"]),
    ("egress", &["job"]),
    ("image", &["job"]),
    ("engine", &["job"]),
    ("job", &[]),
    ("retry", &[]),
];

/// A crate or path, and the only modules that may name it.
const OWNED: [(&str, &[&str]); 16] = [
    ("sqlx::", &["database"]),
    ("lapin::", &["queue"]),
    ("aws_", &["store"]),
    ("axum::", &["http"]),
    ("metrics::", &["worker", "http"]),
    ("metrics_exporter_prometheus::", &["telemetry"]),
    ("opentelemetry", &["trace", "telemetry", "egress"]),
    ("std::env::", &["config", "main"]),
    ("figment::", &["config"]),
    ("clap::", &["cli", "config"]),
    ("indicatif::", &["cli"]),
    ("zip::", &["image"]),
    ("parquet::", &["cli"]),
    // Pipelines run only on the engine's thread; the others use the library's values and pure functions.
    ("QwenImagePipeline", &["engine"]),
    ("candle_core::", &[]),
    ("tokio::", &["cli", "app", "http", "worker", "queue", "database", "store", "engine"]),
];

const MOST_LINES: usize = 500;

#[test]
fn every_line_keeps_the_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&src, &mut files);
    assert!(files.len() > 50, "only {} files under {}", files.len(), src.display());
    let mut broken = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(&src).unwrap().to_string_lossy().replace('\\', "/");
        broken.extend(violations(&name, &text));
    }
    assert!(broken.is_empty(), "\n{}\nThe rules are in tests/it/architecture.rs and in src/lib.rs.", broken.join("\n"));
}

#[test]
fn broken_rules_are_seen() {
    let cases = [
        ("database/row.rs", "use crate::store::ObjectKey;", 1),
        ("store/folder.rs", "use crate::{\n    job,\n    engine::{Engine},\n    worker,\n};", 2),
        ("queue/message.rs", "let x = crate::database::JobRow::new();", 1),
        ("image/decode.rs", "fn f() { std::env::var(\"X\"); tokio::spawn(g()); }", 2),
        ("worker/run.rs", "sqlx::query(\"SELECT\");", 1),
        ("worker/run.rs", "// sqlx::query is for crate::cli to know\nuse crate::{job::JobId, queue};", 0),
        ("elsewhere/x.rs", "", 1),
        ("job/id.rs", &"\n".repeat(501), 1),
    ];
    for (name, text, wanted) in cases {
        let found = violations(name, text);
        assert_eq!(found.len(), wanted, "{name}: {text:?} gave {found:?}");
    }
    let line = &violations("store/folder.rs", cases[1].1)[0];
    assert!(line.starts_with("src/store/folder.rs:3: ") && line.contains("engine"), "{line}");
}

/// How a file breaks the rules, as `src/file.rs:line: reason`.
fn violations(name: &str, text: &str) -> Vec<String> {
    let module = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        found.push(format!("src/{name}:{lines}: more than {MOST_LINES} lines; look for the second idea in it"));
    }
    if module == "main" || module == "lib" {
        return [found, owned(name, module, text)].concat();
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == module) else {
        found.push(format!("src/{name}:1: the module `{module}` has no rule yet"));
        return found;
    };
    for (line, used) in crate_paths(&without_comments(text)) {
        let known = MAY_USE.iter().any(|(known, _)| *known == used);
        if known && used != module && !allowed.contains(&used.as_str()) {
            found.push(format!("src/{name}:{line}: `{module}` uses `{used}`; it may use {}", list(allowed)));
        }
    }
    [found, owned(name, module, text)].concat()
}

fn owned(name: &str, module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in without_comments(text).lines().enumerate() {
        for (word, owners) in OWNED {
            if names(line, word) && !owners.contains(&module) {
                found.push(format!("src/{name}:{}: `{word}` belongs to {}", index + 1, list(owners)));
            }
        }
    }
    found
}

/// Whether the line has the word, but not as the end of a longer one.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The first name of every path after `crate::`, also of those in braces, with its line.
fn crate_paths(text: &str) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    for (start, prefix) in text.match_indices("crate::") {
        if text[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let at = start + prefix.len();
        if text[at..].starts_with('{') {
            let mut depth = 0;
            let mut first = true;
            for (offset, c) in text[at..].char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => first = true,
                    c if depth == 1 && first && !c.is_whitespace() => {
                        first = false;
                        paths.push(word_at(text, at + offset));
                        continue;
                    }
                    _ => {}
                }
                if depth == 1 && c == '{' {
                    first = true;
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            paths.push(word_at(text, at));
        }
    }
    paths
}

fn word_at(text: &str, at: usize) -> (usize, String) {
    let word = text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (text[..at].matches('\n').count() + 1, word)
}

/// The text with everything after `//` blanked; lines keep their numbers.
fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.find("//") {
        // Ignore the two slashes of an address in a literal.
        Some(at) if !line[..at].ends_with(':') => line[..at].to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "nothing of this crate".to_owned() } else { names.join(", ") }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
