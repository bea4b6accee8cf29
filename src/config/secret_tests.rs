//! Secrets in files.

use std::{fs, path::Path};

use super::*;

struct Fixture(tempfile::TempDir);

impl Fixture {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o600);
        path.display().to_string()
    }

    fn load(&self, text: &str, variables: &[(&str, &str)]) -> Result<LoadedConfig, String> {
        let file = PathBuf::from(self.file("acetate.toml", text));
        let environment = Environment::from_list(&[&[("HOME", "/home/me")], variables].concat());
        load(&Sources { file: Some(file), environment, ..Sources::default() }).map_err(|error| error.to_string())
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn setting(loaded: &LoadedConfig, key: &str) -> Setting {
    loaded.settings.iter().find(|setting| setting.key == key).unwrap().clone()
}

#[test]
fn every_secret_may_be_in_a_file() {
    let place = Fixture::new();
    let values = [
        ("queue.url", "amqp://me:hunter2@mq/v"),
        ("status.url", "postgres://me:hunter2@db/x"),
        ("status.listen_url", "postgres://me:hunter2@db/y"),
        ("store.access_key_id", "hunter2-id"),
        ("store.secret_access_key", "hunter2-key"),
        ("http.token", "hunter2-hunter2-hunter2"),
        ("http.webhook_secret", "whsec_hunter2"),
        ("hub.token", "hf_hunter2"),
    ];
    let files: Vec<_> = values.iter().map(|(key, value)| place.file(key, format!("{value}\r\n\n"))).collect();
    let names: Vec<_> =
        values.iter().map(|(key, _)| format!("ACETATE__{}_FILE", key.replace('.', "__").to_uppercase())).collect();
    let variables: Vec<(&str, &str)> =
        names.iter().zip(&files).map(|(name, file)| (name.as_str(), file.as_str())).collect();
    let in_file: String = values
        .iter()
        .zip(&files)
        .map(|((key, _), file)| {
            let (section, key) = key.split_once('.').unwrap();
            format!("[default.{section}]\n{key}_file = \"{file}\"\n")
        })
        .collect();
    // One section each, as TOML wants it.
    let in_file = in_file
        .replace("[default.status]\nlisten", "listen")
        .replace("[default.store]\nsecret", "secret")
        .replace("[default.http]\nwebhook", "webhook");
    for (text, variables) in [("", variables.as_slice()), (in_file.as_str(), &[])] {
        let loaded = place.load(text, variables).unwrap();
        let config = &loaded.config;
        let revealed = [
            config.queue.url.as_ref(),
            config.status.url.as_ref(),
            config.status.listen_url.as_ref(),
            config.store.access_key_id.as_ref(),
            config.store.secret_access_key.as_ref(),
            config.http.token.as_ref(),
            config.http.webhook_secret.as_ref(),
            config.hub.token.as_ref(),
        ];
        for ((key, wanted), found) in values.iter().zip(revealed) {
            assert_eq!(found.unwrap().reveal(), *wanted, "{key}");
            let shown = setting(&loaded, key);
            assert!(shown.value == "***" && shown.from.contains(key), "{shown:?}");
        }
        assert!(!format!("{loaded:?}").contains("hunter2"), "{loaded:?}");
        assert_eq!(loaded.remarks, [""; 0]);
    }
    // The list of secrets and the settings that name their files belong together.
    for key in secret_files::SECRETS {
        assert!(layers::known_key(key).is_ok() && layers::known_key(&format!("{key}_file")).is_ok(), "{key}");
    }
}

#[test]
fn what_is_wrong_with_a_file_names_the_setting_and_the_file() {
    let place = Fixture::new();
    let (empty, binary) = (place.file("empty", "\n"), place.file("binary", [0xff, 0xfe]));
    let large = place.file("large", vec![b'x'; 2 << 20]);
    let (folder, missing) = (place.0.path().display().to_string(), format!("{}/none", place.0.path().display()));
    let (lines, nul) = (place.file("lines", "s3cret\nother\n"), place.file("nul", "s3\0cret"));
    let pipe = place.0.path().join("pipe").display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (path, wanted) in [
        (&missing, "cannot read it: No such file"),
        (&folder, "cannot read it: is a folder"),
        (&pipe, "cannot read it: is a pipe"),
        (&"/dev/null".to_owned(), "cannot read it: is a pipe, a socket or a device"),
        (&lines, "has a line break after 6 characters"),
        (&nul, "has the control character U+0000"),
        (&empty, "is empty"),
        (&binary, "is UTF-16"),
        (&large, "is larger than 1 MiB"),
    ] {
        let error = place.load("", &[("ACETATE__HTTP__TOKEN_FILE", path)]).unwrap_err();
        let named = format!("ACETATE__HTTP__TOKEN_FILE: http.token_file: {path}: {wanted}");
        assert!(error.contains(&named), "{error}");
        let error = place.load(&format!("[hub]\ntoken_file = \"{path}\"\n"), &[]).unwrap_err();
        assert!(error.contains("acetate.toml: hub.token_file: ") && error.contains(wanted), "{error}");
    }
}

#[test]
fn certificates_are_not_read_from_pipes() {
    let place = Fixture::new();
    let (folder, plain) = (place.0.path().display().to_string(), place.file("plain", "pem"));
    let pipe = format!("{folder}/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for (wrong, is) in [(&pipe, "is a pipe"), (&folder, "is a folder")] {
        for (settings, named) in [
            (format!("[tls]\nca_file = \"{wrong}\"\n"), "tls.ca_file"),
            (format!("[queue]\nclient_cert = \"{wrong}\"\nclient_key = \"{plain}\"\n"), "queue.client_cert"),
            (format!("[queue]\nclient_cert = \"{plain}\"\nclient_key = \"{wrong}\"\n"), "queue.client_key"),
        ] {
            let error = place.load(&settings, &[]).unwrap_err();
            assert!(error.contains(&format!("{named}: {wrong} {is}")), "{error}");
        }
    }
}

#[test]
fn one_rule_holds_for_variables_files_and_the_configuration() {
    let place = Fixture::new();
    let wanted = "a-token-0123456789";
    for text in ["\u{feff}a-token-0123456789", "a-token-0123456789\r\n", " a-token-0123456789 \n\n"] {
        let file = place.file("token", text);
        let written = format!("[http]\ntoken = {}\n", serde_json::Value::from(text));
        // As Kubernetes mounts secrets.
        let link = place.0.path().join("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("token", &link).unwrap();
        for (text, variables) in [
            ("", ("ACETATE__HTTP__TOKEN", text)),
            ("", ("ACETATE__HTTP__TOKEN_FILE", &file)),
            ("", ("ACETATE__HTTP__TOKEN_FILE", link.to_str().unwrap())),
            (&written, ("HOME", "/home/me")),
        ] {
            let loaded = place.load(text, &[variables]).unwrap();
            assert_eq!(loaded.config.http.token.unwrap().reveal(), wanted, "{variables:?}");
        }
    }
    let variable = [("ACETATE__HTTP__TOKEN", "s3cret\nother")];
    for (text, variables, named) in [
        ("", &variable[..], "ACETATE__HTTP__TOKEN"),
        ("[http]\ntoken = \"s3cret\\nother\"\n", &[], "acetate.toml: http.token"),
    ] {
        let error = place.load(text, variables).unwrap_err();
        assert!(error.contains("has a line break after 6") && !error.contains("s3cret"), "{error}");
        assert!(error.contains(named), "{error}");
    }
    let loaded = place.load("", &[("ACETATE__WORKER__SLOTS", " 3\n"), ("ACETATE__STORE__URL", "file:///x\n")]).unwrap();
    assert_eq!((loaded.config.worker.slots, loaded.config.store.url.as_deref()), (3, Some("file:///x")));
}

#[test]
fn variables_that_look_like_settings_are_remarked() {
    let place = Fixture::new();
    let variables = [("ACETATE_QUEUE_URL", "amqp://me:hunter2@h"), ("ACETATE_WORKERS", "3"), ("ACETATE_PROFILE", "")];
    let remarks = place.load("", &variables).unwrap().remarks;
    let wanted = "ACETATE_QUEUE_URL is not a setting and has no effect; did you mean ACETATE__QUEUE__URL?";
    assert_eq!(remarks, [wanted]);
    let error = place.load("", &[("ACETATE__QUEUE__ULR", "x")]).unwrap_err();
    assert!(error.contains("`queue.ulr` is not a setting; did you mean queue.url?"), "{error}");
}

#[test]
fn a_value_and_a_file_are_one_too_many_and_a_later_source_wins() {
    let place = Fixture::new();
    let file = place.file("token", "from-the-file-0123");
    let error =
        place.load("", &[("ACETATE__HTTP__TOKEN", "hunter2"), ("ACETATE__HTTP__TOKEN_FILE", &file)]).unwrap_err();
    for words in ["ACETATE__HTTP__TOKEN_FILE: http.token_file", "http.token (ACETATE__HTTP__TOKEN)", "keep one"] {
        assert!(error.contains(words) && !error.contains("hunter2"), "{words}: {error}");
    }
    let both = format!("[http]\ntoken = \"hunter2\"\ntoken_file = \"{file}\"\n");
    let error = place.load(&both, &[]).unwrap_err();
    assert!(error.contains("acetate.toml: http.token_file: http.token"), "{error}");

    let named = format!("[http]\ntoken_file = \"{file}\"\n");
    let token = |text: &str, variables: &[(&str, &str)]| {
        place.load(text, variables).unwrap().config.http.token.unwrap().reveal().to_owned()
    };
    assert_eq!(token(&named, &[("ACETATE__HTTP__TOKEN", "from-the-variable")]), "from-the-variable");
    assert_eq!(token("[http]\ntoken = \"x\"\n", &[("ACETATE__HTTP__TOKEN_FILE", &file)]), "from-the-file-0123");
    assert_eq!(token("", &[("ACETATE__HTTP__TOKEN", ""), ("ACETATE__HTTP__TOKEN_FILE", &file)]), "from-the-file-0123");
}

#[test]
fn systemds_credentials_are_found() {
    let place = Fixture::new();
    place.file("token", "from-the-credentials\n");
    let folder = place.0.path().display().to_string();
    let named = ("ACETATE__HTTP__TOKEN_FILE", "${CREDENTIALS_DIRECTORY}/token");
    let loaded = place.load("", &[named, ("CREDENTIALS_DIRECTORY", &folder)]).unwrap();
    assert_eq!(loaded.config.http.token.as_ref().unwrap().reveal(), "from-the-credentials");
    let error = place.load("", &[named]).unwrap_err();
    assert!(error.contains("CREDENTIALS_DIRECTORY is not set") && error.contains("LoadCredential"), "{error}");
}

#[test]
fn passwords_beside_their_addresses() {
    let place = Fixture::new();
    let password = place.file("password", "p@ss/w$rd#\n");
    let text = "[queue]\nurl = \"amqp://me@mq/v\"\n[status]\nurl = \"postgres://me@db/x\"\nlisten_url = \"postgres://me@db/y\"\n";
    let variables =
        [("ACETATE__QUEUE__PASSWORD_FILE", password.as_str()), ("ACETATE__STATUS__PASSWORD_FILE", password.as_str())];
    let loaded = place.load(text, &variables).unwrap();
    let escaped = "p%40ss%2Fw%24rd%23";
    assert_eq!(loaded.config.queue.url.as_ref().unwrap().reveal(), format!("amqp://me:{escaped}@mq/v"));
    assert_eq!(loaded.config.status.url.as_ref().unwrap().reveal(), format!("postgres://me:{escaped}@db/x"));
    assert_eq!(loaded.config.status.listen_url.as_ref().unwrap().reveal(), format!("postgres://me:{escaped}@db/y"));
    assert!(!format!("{loaded:?}").contains(escaped));
    for (text, wanted) in [
        (
            "[status]\nurl = \"postgres://me:x@db/x\"\npassword = \"y\"",
            "status.password: is given, and the address has",
        ),
        ("[status]\nurl = \"sqlite:///x\"\npassword = \"y\"", "status.password: is only for postgres://"),
        ("[status]\npassword = \"y\"", "status.password: is set, and status.url is empty"),
        ("[queue]\npassword = \"y\"", "queue.password: is set, and queue.url is empty"),
        ("[store]\naccess_key_id = \"y\"", "store.secret_access_key: is empty while store.access_key_id is set"),
    ] {
        let error = place.load(text, &[]).unwrap_err();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn tokens_come_from_tables_json_and_files() {
    let place = Fixture::new();
    let file = place.file("ci", "the-token-of-ci-0123\n");
    let tables = format!(
        "[[http.tokens]]\nname = \"ci\"\nrole = \"submit\"\ntoken_file = \"{file}\"\njobs_per_day = 5\n\
         [[http.tokens]]\nname = \"ops\"\nrole = \"operate\"\ntoken = \"hunter2-hunter2-hunter2\"\n"
    );
    let json = format!(
        "[{{\"name\": \"ci\", \"role\": \"submit\", \"token_file\": \"{file}\", \"jobs_per_day\": 5}},\n\
         {{\"name\": \"ops\", \"role\": \"operate\", \"token\": \"hunter2-hunter2-hunter2\"}}]\n"
    );
    let all = place.file("tokens.json", &json);
    for (text, variables) in [
        (tables.as_str(), vec![]),
        ("", vec![("ACETATE__HTTP__TOKENS", json.as_str())]),
        ("", vec![("ACETATE__HTTP__TOKENS_FILE", all.as_str())]),
    ] {
        let loaded = place.load(text, &variables).unwrap();
        let tokens = &loaded.config.http.tokens;
        let shown: Vec<_> = tokens
            .iter()
            .map(|token| (token.name.as_str(), token.role, token.token.as_ref().unwrap().reveal(), token.jobs_per_day))
            .collect();
        assert_eq!(
            shown,
            [
                ("ci", TokenRole::Submit, "the-token-of-ci-0123", 5),
                ("ops", TokenRole::Operate, "hunter2-hunter2-hunter2", 0)
            ]
        );
        assert_eq!(setting(&loaded, "http.tokens").value, "***");
        assert!(!format!("{loaded:?}").contains("hunter2"));
    }
    let error = place.load(&tables.replace(&file, "/none"), &[]).unwrap_err();
    assert!(error.contains("http.tokens, ci, token_file: /none: cannot read it"), "{error}");
}

/// With the field, and without what stands there, which may be the token.
#[test]
fn a_wrong_token_is_told_with_its_field() {
    let place = Fixture::new();
    let table = |fields: &str| place.load(&format!("[[http.tokens]]\nname = \"ci\"\n{fields}\n"), &[]).unwrap_err();
    let json = |fields: &str| {
        let list = format!(r#"[{{"name": "ok", "role": "read", "token": "a-token-0123456789"}}, {{{fields}}}]"#);
        place.load("", &[("ACETATE__HTTP__TOKENS", &list)]).unwrap_err()
    };
    for (error, wanted) in [
        (table("role = \"admin\"\ntoken = \"hunter2\""), "role"),
        (table("role = \"read\"\ntoken = 77712345"), "token"),
        (table("role = \"read\"\ntoken = \"hunter2\"\njobs_per_day = \"many\""), "jobs_per_day"),
        (table("role = \"read\"\ntokens = \"hunter2\""), "tokens"),
        (json(r#""name": "ci", "role": "admin", "token": "hunter2""#), "[1].role"),
        (json(r#""name": "ci", "role": "read", "token": 77712345"#), "[1].token: is not a text"),
        (json(r#""name": 7, "role": "read", "token": "hunter2""#), "[1].name: is not a text"),
        (
            json(r#""name": "ci", "role": "read", "token": "hunter2", "requests_per_second": "hunter2""#),
            "[1].requests_per_second: is not a number",
        ),
        (json(r#""name": "ci", "role": "read", "token": "hunter2", "jobs_per_day": -1"#), "[1].jobs_per_day: is not"),
    ] {
        assert!(error.contains("http.tokens") && error.contains(wanted), "{wanted}: {error}");
        assert!(!error.contains("hunter2") && !error.contains("77712345"), "{error}");
    }
}

#[test]
fn a_secret_that_all_can_read_is_remarked() {
    let place = Fixture::new();
    let file = place.file("token", "a-token-0123456789");
    let remarks = || place.load("", &[("ACETATE__HTTP__TOKEN_FILE", &file)]).unwrap().remarks;
    assert_eq!(remarks(), [""; 0]);
    set_mode(Path::new(&file), 0o644);
    assert_eq!(remarks().len(), 1);
    assert!(
        remarks()[0].contains("http.token_file: every user of this machine can read")
            && remarks()[0].contains("chmod o-r")
    );
}
