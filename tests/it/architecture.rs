//! Which modules may use which, and that names mean one thing. `src/lib.rs` describes the rules for modules; this
//! checks them, line by line.

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// For every Rust file of the repository.
const MOST_LINES: usize = 500;
/// As in rustfmt.toml. rustfmt leaves comments as they are.
const MOST_COLUMNS: usize = 120;

/// Type names that the library and `job/` both define. `job/` has the serialized form of the library's value, and both
/// mean the same. Any other name is defined once in the workspace.
const SERIALIZED_BY_JOB: [&str; 7] =
    ["AlphaMode", "Caption", "DriftRecord", "OutputSize", "SamplingRecord", "Stage", "StageTiming"];

/// Words that stand for a term of the field, and the term.
const PRIVATE_WORDS: [(&str, &str); 8] = [
    ("company", "isolation"),
    ("compose", "composite, of layers; otherwise what is built"),
    ("foresee", "estimate"),
    ("look", "probe, inspect, find, or what it is looked at for"),
    ("nudge", "wake"),
    ("patience", "timeout, deadline"),
    ("patiently", "retry"),
    ("somebody", "who it is: client, reader, watcher"),
];

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
fn files_and_comments_have_a_size_to_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates/qwen-image", "tests"] {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.len() > 600, "only {} files", files.len());
    let mut broken = Vec::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        broken.extend(oversized(&name, &fs::read_to_string(&path).unwrap()));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
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
    ];
    for (name, text, wanted) in cases {
        let found = violations(name, text);
        assert_eq!(found.len(), wanted, "{name}: {text:?} gave {found:?}");
    }
    assert_eq!(oversized("src/job/id.rs", &"\n".repeat(500)), [""; 0]);
    assert!(oversized("src/job/id.rs", &"\n".repeat(501))[0].starts_with("src/job/id.rs:501: "));
    let text = format!("    /// {}\n// {}\nlet x = \"{}\";\n", "a".repeat(113), "é".repeat(117), "a".repeat(200));
    assert_eq!(oversized("src/job/id.rs", &text).len(), 1, "the first comment alone has 121 columns");
    let line = &violations("store/folder.rs", cases[1].1)[0];
    assert!(line.starts_with("src/store/folder.rs:3: ") && line.contains("engine"), "{line}");
}

#[test]
fn a_type_name_means_one_thing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates/qwen-image/src"] {
        collect(&root.join(folder), &mut files);
    }
    files.retain(|path| !path.to_string_lossy().ends_with("tests.rs"));
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut broken = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
        for (line, kind, defined) in definitions(&text) {
            if let Some((word, term)) = private_word(&defined) {
                broken.push(format!("{name}:{line}: `{defined}`: `{word}` is a private word; the field says: {term}"));
            }
            if kind == Kind::Type {
                types.entry(defined).or_default().insert(name.clone());
            }
        }
    }
    assert!(types.len() > 500, "only {} types were found", types.len());
    broken.extend(types.iter().filter_map(|(name, files)| homonym(name, files)));
    let unused = SERIALIZED_BY_JOB.iter().filter(|name| types.get(**name).is_none_or(|files| files.len() < 2));
    broken.extend(unused.map(|name| format!("`{name}` is defined once; take it out of SERIALIZED_BY_JOB")));
    assert!(broken.is_empty(), "\n{}\nThe rules are in tests/it/architecture.rs.", broken.join("\n"));
}

#[test]
fn homonyms_and_private_words_are_seen() {
    let text = "/// `struct Old`\npub struct Row<T>(T);\n    struct InBody;\npub(super) enum Look { A }\nfn look_at() {}\n\
                impl X {\n    pub async fn take(&self) {}\n}\n#[cfg(test)]\nmod tests {\nstruct InTests;\n}\n";
    let found: Vec<_> = definitions(text).into_iter().map(|(line, _, name)| (line, name)).collect();
    let wanted = [(2, "Row"), (4, "Look"), (5, "look_at"), (7, "take")].map(|(line, name)| (line, name.to_owned()));
    assert_eq!(found, wanted);
    for name in ["look", "look_at", "Look", "PATIENCE", "to_foresee", "ForeseeArgs"] {
        assert!(private_word(name).is_some(), "{name}");
    }
    for name in ["lookup", "Lookups", "outlook", "composite", "patient_count"] {
        assert!(private_word(name).is_none(), "{name}");
    }
    let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert!(homonym("Row", &files(&["src/a.rs", "src/b/c.rs"])).is_some_and(|told| told.contains("src/b/c.rs")));
    assert!(homonym("Row", &files(&["src/a.rs"])).is_none());
    assert!(homonym("Stage", &files(&["src/job/state.rs", "crates/qwen-image/src/pipeline/callbacks.rs"])).is_none());
    assert!(homonym("Stage", &files(&["src/job/state.rs", "src/cli/view.rs"])).is_some());
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Type,
    Other,
}

/// The types, functions, constants and modules that a file defines, with their lines. Not those of its tests, nor types
/// inside of functions, which nothing else sees.
fn definitions(text: &str) -> Vec<(usize, Kind, String)> {
    let mut found = Vec::new();
    for (index, line) in without_comments(text).lines().enumerate() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            break;
        }
        let is_indented = line.starts_with(' ');
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let before_name = words.by_ref().find(|word| {
            !matches!(*word, "pub" | "crate" | "super" | "self" | "in" | "async" | "unsafe" | "extern" | "C" | "mut")
                && (*word != "const" || !line.contains(" fn "))
        });
        let kind = match before_name {
            Some("struct" | "enum" | "trait" | "type" | "union") if !is_indented => Kind::Type,
            Some("fn" | "const" | "static" | "mod") => Kind::Other,
            _ => continue,
        };
        if let Some(name) = words.next() {
            found.push((index + 1, kind, name.to_owned()));
        }
    }
    found
}

fn private_word(name: &str) -> Option<(&'static str, &'static str)> {
    let mut words = String::new();
    let mut last = '_';
    for c in name.chars() {
        if c.is_uppercase() && last.is_lowercase() {
            words.push('_');
        }
        words.extend(c.to_lowercase());
        last = c;
    }
    PRIVATE_WORDS.into_iter().find(|(word, _)| words.split('_').any(|part| part == *word))
}

fn homonym(name: &str, files: &BTreeSet<String>) -> Option<String> {
    let is_serialized = SERIALIZED_BY_JOB.contains(&name)
        && files.len() == 2
        && files.iter().any(|file| file.starts_with("src/job/"))
        && files.iter().any(|file| file.starts_with("crates/qwen-image/src/"));
    let list = files.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    (files.len() > 1 && !is_serialized).then(|| format!("`{name}` is the name of several types: {list}"))
}

/// A file with too many lines, and comments with too many columns.
fn oversized(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let many =
        (lines > MOST_LINES).then(|| format!("{name}:{lines}: more than {MOST_LINES} lines; look for its second idea"));
    let is_wide = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > MOST_COLUMNS;
    let wide = text.lines().enumerate().filter(|(_, line)| is_wide(line));
    let wide = wide.map(|(index, _)| format!("{name}:{}: a comment with more than {MOST_COLUMNS} columns", index + 1));
    many.into_iter().chain(wide).collect()
}

/// How a file breaks the rules, as `src/file.rs:line: reason`.
fn violations(name: &str, text: &str) -> Vec<String> {
    let module = name.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let mut found = Vec::new();
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
