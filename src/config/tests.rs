//! The layers, and the messages about what is wrong in them.

use super::*;
use ::qwen_image::{ComputeDType, CpuOffload, DeviceChoice, ImageProcessorBackend, TextPositions};

fn with_file(text: &str, environment: Environment, profile: Option<&str>) -> Result<LoadedConfig, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acetate.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources { file: Some(path), profile: profile.map(str::to_owned), environment, flags: Vec::new() };
    load(&sources).map_err(|error| error.to_string())
}

fn home() -> Environment {
    Environment::from_pairs([("HOME", "/home/me"), ("XDG_DATA_HOME", "/data")])
}

#[test]
fn the_defaults_are_complete() {
    let sources = Sources { file: Some("/dev/null".into()), environment: home(), ..Sources::default() };
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.data_dir, PathBuf::from("/data/acetate"));
    assert_eq!(loaded.config.qwen_image.layer_num, 4);
    assert_eq!(loaded.config.qwen_image.dtype(), Ok(ComputeDType::F32));
    assert_eq!(loaded.hub.cache_dir, PathBuf::from("/home/me/.cache/huggingface/hub"));
    assert!(loaded.settings.iter().all(|setting| loaded.chosen(&setting.key).is_none()));
}

#[test]
fn a_relative_base_folder_is_ignored() {
    let environment = Environment::from_pairs([("HOME", "/home/me"), ("XDG_DATA_HOME", "data")]);
    let data_dir = with_file("", environment, None).unwrap().config.data_dir;
    assert!(data_dir.is_absolute() && !data_dir.ends_with("data/acetate"), "{}", data_dir.display());
}

#[test]
fn a_file_is_honored_with_and_without_a_profile() {
    let file = "[default.qwen_image]\nmodel_path = \"/m\"\nedit_model_path = \"\"\ncpu_offload = true\nlayer_num = 3\n\
                num_inference_steps = 20\ncfg_scale = 2\nresolution = 1024\n";
    for text in [file.to_owned(), file.replace("default.", "")] {
        let config = with_file(&text, home(), None).unwrap().config.qwen_image;
        assert_eq!((config.model_path.as_deref(), config.edit_model_path), (Some("/m"), None));
        assert_eq!((config.layer_num, config.num_inference_steps, config.resolution), (3, 20, 1024));
        assert_eq!((config.cpu_offload, config.cfg_scale), (CpuOffload::Auto, 2.0));
    }
}

#[test]
fn offload_and_memory_are_written_in_several_ways() {
    let read = |text: &str| {
        let config = with_file(&format!("[qwen_image]\n{text}\n"), home(), None)?.config.qwen_image;
        Ok::<_, String>((config.cpu_offload, config.vram_budget, config.memory_budget))
    };
    assert_eq!(read("").unwrap(), (CpuOffload::Auto, 0, 0));
    assert_eq!(read("cpu_offload = false\nvram_budget = \"20 GiB\"").unwrap(), (CpuOffload::Never, 20 << 30, 0));
    let both = read("cpu_offload = \"sequential\"\nvram_budget = 5000000\nmemory_budget = \"1.5GB\"").unwrap();
    assert_eq!(both, (CpuOffload::Sequential, 5_000_000, 1_500_000_000));
    let environment = [("HOME", "/home/me"), ("ACETATE__QWEN_IMAGE__CPU_OFFLOAD", "true")];
    let loaded = with_file("", Environment::from_pairs(environment), None).unwrap();
    assert_eq!(loaded.config.qwen_image.cpu_offload, CpuOffload::Auto);
    assert!(read("cpu_offload = \"some\"").unwrap_err().contains("auto, none, model or sequential"));
    for text in ["vram_budget = 20", "memory_budget = \"20\""] {
        let told = "`20` is 20 bytes of memory; write the unit, for instance 20 GiB";
        assert!(read(text).unwrap_err().contains(told), "{text}");
    }
    assert!(read("vram_budget = \"20 bananas\"").unwrap_err().contains("bananas"));
    assert!(read("vram_budget = \"99999999999 GiB\"").unwrap_err().contains("99999999999 GiB"));
    let text = "[http]\nmax_upload_bytes = \"64 MiB\"\n[image]\nmax_bytes = \"1 GiB\"\nmax_memory = 4294967296\n";
    let config = with_file(text, home(), None).unwrap().config;
    let amounts = (config.http.max_upload_bytes, config.image.max_bytes, config.image.max_memory);
    assert_eq!(amounts, (64 << 20, 1 << 30, 4 << 30));
}

#[test]
fn guidance_is_serial_unless_it_is_set() {
    let read = |text: &str, environment: Environment| {
        Ok::<_, String>(with_file(&format!("[qwen_image]\n{text}\n"), environment, None)?.config.qwen_image.guidance)
    };
    assert_eq!(read("", home()).unwrap(), GuidanceMode::Serial);
    assert_eq!(read("guidance = \"parallel\"", home()).unwrap(), GuidanceMode::Parallel);
    let variable = [("HOME", "/home/me"), ("ACETATE__QWEN_IMAGE__GUIDANCE", "parallel")];
    assert_eq!(read("guidance = \"serial\"", Environment::from_pairs(variable)).unwrap(), GuidanceMode::Parallel);
    let error = read("guidance = \"both\"", home()).unwrap_err();
    let wanted = "acetate.toml: qwen_image.guidance: `both` is not a way to compute guidance; write serial or parallel (its scale is cfg_scale)";
    assert!(error.contains(wanted), "{error}");
}

#[test]
fn later_layers_win_and_say_so() {
    let text =
        "[qwen_image]\nlayer_num = 3\nresolution = 32\n[production.qwen_image]\nlayer_num = 5\ncfg_scale = 1.5\n";
    let environment = Environment::from_pairs([
        ("HOME", "/home/me"),
        ("ACETATE__QWEN_IMAGE__CFG_SCALE", "7.5"),
        ("ACETATE__HTTP__TOKEN", "0123"),
        ("ACETATE_PROFILE", "production"),
    ]);
    let loaded = with_file(text, environment, None).unwrap();
    let config = &loaded.config;
    assert_eq!((config.qwen_image.layer_num, config.qwen_image.resolution), (5, 32));
    assert_eq!(config.qwen_image.cfg_scale, 7.5);
    assert_eq!(config.http.token.as_ref().unwrap().reveal(), "0123");
    let setting = |key: &str| loaded.settings.iter().find(|setting| setting.key == key).unwrap();
    assert_eq!(setting("qwen_image.cfg_scale").from, "ACETATE__QWEN_IMAGE__CFG_SCALE");
    assert!(setting("qwen_image.layer_num").from.ends_with("acetate.toml"));
    assert_eq!(setting("http.token").value, "***");
}

#[test]
fn flags_win_over_everything() {
    let environment = Environment::from_pairs([("HOME", "/h"), ("ACETATE__QWEN_IMAGE__DEVICE", "cuda:1")]);
    let flag = Flag { name: "--device", key: "qwen_image.device", value: "cpu".into() };
    let sources = Sources { file: Some("/dev/null".into()), environment, flags: vec![flag], profile: None };
    assert_eq!(load(&sources).unwrap().config.qwen_image.device.first(), DeviceChoice::Cpu);
}

#[test]
fn mistakes_name_their_place_and_what_there_is() {
    let cases = [
        ("[qwen_image]\nlayers = 3", "acetate.toml: `qwen_image.layers` is not a setting; [qwen_image] has "),
        ("[qwen_imge]\nlayer_num = 3", "acetate.toml: [qwen_imge] is neither a section nor a profile: `layer_num`"),
        (
            "[database]\nurl = 3",
            "acetate.toml: [database] is neither a section nor a profile (the job database is in [status]):",
        ),
        ("[default.qwen]\nx = 3", "acetate.toml: [default] is neither a section nor a profile: `qwen`"),
        ("speed = 3", "acetate.toml: `speed` is not a setting; the sections are "),
        (
            "[qwen_image]\nlayer_num = \"many\"",
            "acetate.toml: qwen_image.layer_num: \"many\" is not a whole number, 0 or more",
        ),
        ("[qwen_image]\ntext_positions = \"grid\"", "qwen_image.text_positions: `grid` is not a way to count"),
        ("[qwen_image]\nimage_processor = \"pillow\"", "image_processor: `pillow` is not an image processor; write"),
        ("[qwen_image]\ndtype = \"fp16\"", "acetate.toml: qwen_image.dtype: fp16 gives black pictures"),
        ("[worker]\nlease_seconds = 0", "acetate.toml: worker.lease_seconds: 0 is not between 1 and 86400 seconds"),
        ("[queue]\nconsumer_timeout_seconds = 1", "queue.consumer_timeout_seconds: 1 is not between 60 and 4000000"),
        ("[qwen_image]\nlayer_num = 11", "acetate.toml: qwen_image.layer_num: 11 is not between 0 and 10"),
        ("[qwen_image]\nnum_inference_steps = 0", "acetate.toml: qwen_image.num_inference_steps: 0 is not between"),
        ("[qwen_image]\ncfg_scale = -1", "acetate.toml: qwen_image.cfg_scale: -1 is not a number between 0 and 100"),
        ("[qwen_image]\nresolution = 700", "acetate.toml: qwen_image.resolution: 700 is not a multiple of 32"),
        ("[qwen_image\n", "acetate.toml: "),
    ];
    for (text, wanted) in cases {
        let error = with_file(text, home(), None).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gave: {error}");
    }
    let environment = Environment::from_pairs([("HOME", "/h"), ("ACETATE__QWEN_IMAGE__MODLE_PATH", "x")]);
    let error = with_file("", environment, None).unwrap_err();
    assert!(error.contains("ACETATE__QWEN_IMAGE__MODLE_PATH: `qwen_image.modle_path` is not a setting"), "{error}");
    let environment = Environment::from_pairs([("HOME", "/h"), ("ACETATE__WORKER__MAX_ATTEMPTS", "-1")]);
    let error = with_file("", environment, None).unwrap_err();
    assert!(error.contains("ACETATE__WORKER__MAX_ATTEMPTS: worker.max_attempts: "), "{error}");
    let error = with_file("[qwen_image]\n", home(), Some("producton")).unwrap_err();
    assert!(error.contains("--profile: there is no profile `producton`"), "{error}");
}

/// A wrong pair of settings is found again with the default in the place of one of them.
#[test]
fn a_mistake_is_told_once() {
    for (text, wanted) in [
        ("[store]\naccess_key_id = \"x\"", "store.secret_access_key: is empty while store.access_key_id is set"),
        ("[queue]\nclient_cert = \"/x\"", "queue.client_key: is empty while queue.client_cert is set"),
        ("[store]\nkms_key_id = \"x\"", "store.kms_key_id: needs store.server_side_encryption"),
    ] {
        let error = with_file(text, home(), None).unwrap_err();
        assert_eq!(error.matches(wanted).count(), 1, "{error}");
        assert!(!error.contains("stands in"), "{error}");
    }
}

#[test]
fn times_that_no_clock_has_are_refused_with_the_range() {
    let times: Vec<&str> = layers::keys().filter(|key| key.ends_with("_seconds") || key.ends_with("_days")).collect();
    assert!(times.len() > 15, "{times:?}");
    for key in times {
        let variable = format!("ACETATE__{}", key.replace('.', "__").to_uppercase());
        for value in ["1e30", "-1", "1e308", "nan", "inf", "-inf", "1e999"] {
            let environment = Environment::from_pairs([("HOME", "/h"), (variable.as_str(), value)]);
            let error = with_file("", environment, None).unwrap_err();
            assert!(error.contains(&format!("{variable}: {key}: ")), "{value}: {error}");
            assert!(error.contains("between") || error.contains("is not a number"), "{value}: {error}");
        }
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "[qwen_image]\nlayers = 3\nlayer_num = 11\nresolution = 700\n[worker]\nlease_seconds = \"soon\"\n\
                max_attempts = 0\n[speed]\nhigh = 1\n";
    let environment = Environment::from_pairs([
        ("HOME", "/h"),
        ("ACETATE__QUEUE__PREFETCHED", "1"),
        ("ACETATE__STORE__READ_TIMEOUT_SECONDS", "0"),
    ]);
    let error = with_file(text, environment, None).unwrap_err();
    assert!(error.starts_with("configuration, 8 mistakes:\n"), "{error}");
    for wanted in [
        "acetate.toml: `qwen_image.layers` is not a setting",
        "acetate.toml: qwen_image.layer_num: 11 is not between",
        "acetate.toml: qwen_image.resolution: 700 is not",
        "acetate.toml: worker.lease_seconds: ",
        "acetate.toml: worker.max_attempts: 0 would",
        "acetate.toml: [speed] is neither",
        "ACETATE__QUEUE__PREFETCHED: `queue.prefetched` is not a setting",
        "ACETATE__STORE__READ_TIMEOUT_SECONDS: store.read_timeout_seconds: 0 is not between",
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn how_pictures_are_read_is_the_checkpoints_unless_it_is_set() {
    let read = |text: &str| {
        let config = with_file(&format!("[qwen_image]\n{text}\n"), home(), None).unwrap().config.qwen_image;
        (config.text_positions, config.image_processor)
    };
    assert_eq!(read(""), (None, None));
    let both = read("text_positions = \"sequential\"\nimage_processor = \"pil\"");
    assert_eq!(both, (Some(TextPositions::Sequential), Some(ImageProcessorBackend::Pil)));
}

#[test]
fn bf16_on_the_cpu_is_refused() {
    let config = with_file("[qwen_image]\ndtype = \"bf16\"", home(), None).unwrap().config;
    assert!(config.qwen_image.dtype().unwrap_err().contains("use f32"));
}

#[test]
fn nothing_secret_is_printed() {
    let environment = Environment::from_pairs([
        ("HOME", "/h"),
        ("HF_TOKEN", "hf_secret"),
        ("ACETATE__HTTP__TOKEN", "s3cret"),
        ("ACETATE__STATUS__URL", "postgres://me:s3cret@db/acetate"),
    ]);
    let loaded = with_file("", environment, None).unwrap();
    let printed = format!("{loaded:?}");
    assert!(!printed.contains("s3cret") && !printed.contains("hf_secret"), "{printed}");
}

#[test]
fn lists_of_prefixes_come_from_files_and_from_variables() {
    let environment = Environment::from_pairs([
        ("HOME", "/h"),
        ("ACETATE__STORE__OUTPUTS", "s3://out, file:///srv/out"),
        ("ACETATE__STORE__CHECKSUMS", "required"),
    ]);
    let loaded = with_file("[store]\ninputs = [\"s3://in\", \"s3://more/x,y\"]\n", environment, None).unwrap();
    let store = &loaded.config.store;
    assert_eq!(store.inputs, ["s3://in", "s3://more/x,y"]);
    assert_eq!(store.outputs, ["s3://out", "file:///srv/out"]);
    assert_eq!((store.checksums, store.http_inputs), (ChecksumsSetting::Required, false));
    let shown = loaded.settings.iter().find(|setting| setting.key == "store.inputs").unwrap();
    assert_eq!(shown.value, "s3://in, s3://more/x,y");
    for (text, wanted) in [
        ("[store]\ninputs = 3", "store.inputs: "),
        ("[store]\nchecksums = \"md5\"", "store.checksums: "),
        ("[store]\nread_timeout_seconds = 0", "store.read_timeout_seconds: 0 is not between 0.1 and 86400"),
    ] {
        let error = with_file(text, home(), None).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gave: {error}");
    }
}

#[test]
fn buckets_have_options_of_their_own() {
    let read = |text: &str| Ok::<_, String>(with_file(&format!("[store]\n{text}\n"), home(), None)?.config.store);
    assert_eq!(read("").unwrap().path_style, PathStyleSetting::Auto);
    assert_eq!(read("path_style = true").unwrap().path_style, PathStyleSetting::Always);
    assert_eq!(read("path_style = \"false\"").unwrap().path_style, PathStyleSetting::Never);
    let store =
        read("buckets = [\"public region=us-west-2 anonymous=true\", \"scans endpoint=https://h:9 path_style=false\"]")
            .unwrap();
    let public = BucketOptions { region: Some("us-west-2".to_owned()), anonymous: true, ..BucketOptions::default() };
    assert_eq!(store.buckets["public"], public);
    assert_eq!(store.buckets["scans"].path_style, Some(PathStyleSetting::Never));
    let environment = [("HOME", "/h"), ("ACETATE__STORE__BUCKETS", "a requester_pays=true, b region=x")];
    let loaded = with_file("", Environment::from_pairs(environment), None).unwrap();
    assert!(loaded.config.store.buckets["a"].requester_pays && loaded.config.store.buckets.contains_key("b"));
    for (text, wanted) in [
        ("path_style = \"host\"", "store.path_style: `host` is not auto, true or false"),
        ("buckets = [\"s3://public region=x\"]", "does not begin with the name of a bucket, without s3://"),
        ("buckets = [\"public anonymous\"]", "bucket public: `anonymous` is not an option with its value"),
        ("buckets = [\"public anonymous=yes\"]", "bucket public: `anonymous=yes` is not true or false"),
        ("buckets = [\"public regoin=x\"]", "they are endpoint, region, path_style, anonymous and requester_pays"),
        ("buckets = [\"a region=x\", \"a region=y\"]", "bucket a is there twice"),
        ("server_side_encryption = \"KMS\"", "`KMS` is not AES256, aws:kms or aws:kms:dsse"),
        ("kms_key_id = \"x\"", "store.kms_key_id: needs store.server_side_encryption"),
        ("multipart_above = \"1 MiB\"", "store.multipart_above: 1048576 is less than 8388608"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gave: {error}");
    }
}

#[test]
fn tenants_have_limits_and_the_queue_a_window() {
    let read = |text: &str| Ok::<_, String>(with_file(&format!("[queue]\n{text}\n"), home(), None)?.config.queue);
    let queue = read("window = 40\ntenant_limit = 3\ntenant_limits = [\"acme=4\", \"a b=0\"]").unwrap();
    assert_eq!((queue.window, queue.tenant_limit), (40, 3));
    assert_eq!((queue.tenant_limits["acme"], queue.tenant_limits["a b"]), (4, 0));
    let environment = [("HOME", "/h"), ("ACETATE__QUEUE__TENANT_LIMITS", "acme=4, internal=0")];
    let loaded = with_file("", Environment::from_pairs(environment), None).unwrap();
    assert_eq!(loaded.config.queue.tenant_limits.len(), 2);
    for (text, wanted) in [
        ("tenant_limits = [\"acme\"]", "`acme` is not the limit of a tenant; write NAME=JOBS"),
        ("tenant_limits = [\"acme=many\"]", "`acme=many` is not the limit of a tenant"),
        ("tenant_limits = [\"=4\"]", "`=4` is not the limit of a tenant"),
        ("tenant_limits = \"acme=4;b=3\"", "`acme=4;b=3` is not the limit of a tenant"),
        ("tenant_limits = \"acme=4 b=3\"", "`acme=4 b=3` is not the limit of a tenant"),
        ("tenant_limits = \"acme;b=3\"", "commas between them"),
        ("window = 99999999999", "99999999999 is not between 0 and 10000000 jobs"),
        ("tenant_limits = [\"a=1\", \"a=2\"]", "the tenant a is there twice"),
        ("window = 20000000", "queue.window: 20000000 is not between 0 and 10000000 jobs"),
        ("window = -1", "queue.window"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gave: {error}");
    }
}

#[test]
fn the_http_server_needs_room_and_time() {
    for (text, wanted) in [
        ("max_connections = 0", "http.max_connections: 0 would refuse every client"),
        ("read_timeout_seconds = 0", "http.read_timeout_seconds: 0 is not between 0.1 and 3600 seconds"),
    ] {
        let error = with_file(&format!("[http]\n{text}\n"), home(), None).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gave: {error}");
    }
}

#[test]
fn files_of_other_editors_are_read_or_named() {
    let config = with_file("\u{feff}[qwen_image]\r\nlayer_num = 3\r\n", home(), None).unwrap().config;
    assert_eq!(config.qwen_image.layer_num, 3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acetate.toml");
    for (bytes, wanted) in [
        (&b"\xff\xfe[\0"[..], "is UTF-16; save it as UTF-8"),
        (b"\xff\xfe\0\0[\0\0\0", "is UTF-32; save it as UTF-8"),
        (b"x = \"\xe9\"", "is not UTF-8 at byte 5"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let sources = Sources { file: Some(path.clone()), environment: home(), ..Sources::default() };
        let error = load(&sources).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_heartbeat_that_is_too_rare_for_the_lease_is_said() {
    let remarks = |text: &str| with_file(&format!("[worker]\n{text}\n"), home(), None).unwrap().remarks.join("; ");
    let said = remarks("heartbeat_seconds = 60");
    assert!(said.contains("worker.heartbeat_seconds (60)") && said.contains("worker.lease_seconds (30)"), "{said}");
    assert_eq!(remarks("heartbeat_seconds = 10"), "");
    assert_eq!(remarks("lease_seconds = 1"), "");
}

#[test]
fn a_number_that_its_type_cannot_hold_is_too_large() {
    for (text, wanted) in [
        ("[worker]\nslots = 99999999999", "99999999999 is not between 1 and 64"),
        ("[status]\nmax_connections = 4294967296", "4294967296 is not between 2 and 1000"),
        ("[worker]\nmax_attempts = 99999999999", "99999999999 is too large; the most is 4294967295"),
        ("[worker]\nslots = \"many\"", "is not a whole number"),
        ("[worker]\nslots = -1", "is not a whole number"),
        ("[worker]\nslots = 1.5", "is not a whole number"),
    ] {
        let error = with_file(&format!("{text}\n"), home(), None).unwrap_err();
        assert!(error.contains(wanted), "{text:?} gave: {error}");
    }
    let variables = [("HOME", "/h"), ("ACETATE__QUEUE__WINDOW", "999999999999999999999999999999999999999999")];
    let error = with_file("", Environment::from_pairs(variables), None).unwrap_err();
    assert!(error.contains("is not between 0 and 10000000 jobs"), "{error}");
}

#[test]
fn an_earlier_name_of_a_setting_still_works() {
    let file = "[worker]\ndatabase_patience_seconds = 7.0\n";
    assert_eq!(with_file(file, home(), None).unwrap().config.worker.database_retry_seconds, 7.0);
    let variable = Environment::from_pairs([("HOME", "/me"), ("ACETATE__WORKER__DATABASE_PATIENCE_SECONDS", "8")]);
    assert_eq!(with_file(file, variable, None).unwrap().config.worker.database_retry_seconds, 8.0);
}

#[test]
fn both_names_of_a_setting_in_one_place_are_refused() {
    let both = "[worker]\ndatabase_patience_seconds = 7.0\ndatabase_retry_seconds = 9.0\n";
    let error = with_file(both, home(), None).unwrap_err();
    let wanted = "both `worker.database_patience_seconds` and `worker.database_retry_seconds` are set";
    assert!(error.contains(wanted), "{error}");

    let (old, new) = ("ACETATE__WORKER__DATABASE_PATIENCE_SECONDS", "ACETATE__WORKER__DATABASE_RETRY_SECONDS");
    let variables = Environment::from_pairs([("HOME", "/me"), (old, "8"), (new, "9")]);
    let error = with_file("", variables, None).unwrap_err();
    assert!(error.contains(&format!("{old}: {new} is set, too")), "{error}");

    // A later place overrides an earlier one, whatever name it uses.
    let variable = Environment::from_pairs([("HOME", "/me"), (new, "9")]);
    let file = "[worker]\ndatabase_patience_seconds = 7.0\n";
    assert_eq!(with_file(file, variable, None).unwrap().config.worker.database_retry_seconds, 9.0);
}
