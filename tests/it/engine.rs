//! The engine's threads: first use, several devices, cancellation, refusals and NaN weights.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Barrier, Mutex},
};

use ::image::RgbaImage;
use acetate::{
    engine::{AllowedLoras, CancelToken, DeviceGroup, Engine, EngineConfig, EngineOutput, ProgressFn, Resident, Work},
    job::{DecomposeParams, EditParams, JobError, LayerCount, LoraParam, OutputSize, Stage},
};
use qwen_image::{
    Conditioning, DeviceChoice, ImageProcessorBackend, PipelineOptions, TextPositions,
    hub::{HubConfig, ModelRef, Small, SmallModelPaths},
};
use tokio::sync::mpsc;

use crate::common;

fn golden(name: &str) -> PathBuf {
    common::golden(name).into()
}

fn config(model: &Path) -> EngineConfig {
    with_options(model, PipelineOptions::default())
}

fn with_options(model: &Path, options: PipelineOptions) -> EngineConfig {
    EngineConfig {
        model: ModelRef::Folder(model.to_owned()),
        devices: vec![options.device.into()],
        pipeline: PipelineOptions {
            edit_model: Some(ModelRef::Folder(golden("checkpoints/edit"))),
            hub: HubConfig::new("http://127.0.0.1:9", "/nonexistent"),
            ..options
        },
        allowed_loras: AllowedLoras::default(),
        name_layers: false,
    }
}

fn picture(path: &str) -> RgbaImage {
    ::image::open(golden("pictures").join(path)).unwrap().to_rgba8()
}

fn decompose(steps: u32) -> Work {
    let params = DecomposeParams {
        prompt: "A house.".to_owned(),
        layers: LayerCount::Exactly(2),
        steps,
        ..DecomposeParams::default()
    };
    Work::Decompose { image: picture("house.png"), params, seed: 1 }
}

fn edit(output_size: OutputSize, input: RgbaImage) -> Work {
    let params = EditParams { instruction: "Make it blue.".to_owned(), steps: 1, output_size, ..EditParams::default() };
    Work::Edit { image: input, references: Vec::new(), mask: None, params, seed: 1 }
}

fn silent() -> ProgressFn {
    Box::new(|_, _, _| ())
}

async fn run(engine: &Engine, work: Work) -> Result<EngineOutput, JobError> {
    engine.run(work, CancelToken::default(), silent()).await
}

#[tokio::test]
async fn the_edit_model_is_loaded_at_its_first_use_and_kept() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let resident = engine.resident();
    assert_eq!(*resident.borrow(), Resident::default());
    run(&engine, decompose(1)).await.unwrap();
    assert!(resident.borrow().decompose.is_some() && resident.borrow().edit.is_none());
    let outcome = run(&engine, edit(OutputSize::Source, picture("badge.png"))).await.unwrap();
    assert!(resident.borrow().edit.is_some() && resident.borrow().decompose.is_some());
    assert_eq!(outcome.model.pipeline, "QwenImageEditPlusPipeline");
    assert_eq!(outcome.device, "cpu f32 cpu-blocked");
    let stages: Vec<_> = outcome.timings.iter().map(|timing| timing.stage).collect();
    assert_eq!(stages, [Stage::Load, Stage::TextEncode, Stage::VaeEncode, Stage::Denoise, Stage::VaeDecode]);
}

/// The library does not mind two threads on one CPU; settings refuse a device that is named twice.
fn two_devices() -> Engine {
    let config = EngineConfig { devices: vec![DeviceChoice::Cpu.into(); 2], ..config(&golden("checkpoints/layered")) };
    Engine::start(&config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_devices_work_at_the_same_time_and_make_the_same_pictures() {
    let alone = run(&Engine::start(&config(&golden("checkpoints/layered"))).unwrap(), decompose(2)).await.unwrap();
    let engine = two_devices();
    assert_eq!(engine.self_test().await.unwrap(), ["cpu f32 cpu-blocked"; 2]);
    // Each waits in its first step until the other is there, so one after the other would never end.
    let together = Arc::new(Barrier::new(2));
    let meeting = || -> ProgressFn {
        let together = together.clone();
        Box::new(move |stage, step, _| {
            if stage == Stage::Denoise && step == 1 {
                together.wait();
            }
        })
    };
    let (one, two) = tokio::join!(
        engine.run(decompose(2), CancelToken::default(), meeting()),
        engine.run(decompose(2), CancelToken::default(), meeting()),
    );
    assert_eq!(one.unwrap().images, alone.images);
    assert_eq!(two.unwrap().images, alone.images);
    assert!(engine.devices().iter().all(|device| device.usable && device.resident.decompose.is_some()));
}

/// Two devices for the branches of guidance are one device of the engine.
#[tokio::test]
async fn a_pair_of_devices_makes_the_same_pictures_and_is_named() {
    let alone = run(&Engine::start(&config(&golden("checkpoints/layered"))).unwrap(), decompose(2)).await.unwrap();
    let pair = DeviceGroup { device: DeviceChoice::Cpu, cfg_parallel: Some(DeviceChoice::Cpu) };
    let config = EngineConfig { devices: vec![pair], ..config(&golden("checkpoints/layered")) };
    let engine = Engine::start(&config).unwrap();
    assert_eq!(engine.self_test().await.unwrap(), ["cpu f32 cpu-blocked; negative branch on cpu"]);
    let outcome = run(&engine, decompose(2)).await.unwrap();
    assert!(outcome.images == alone.images);
    assert_eq!(outcome.device, "cpu f32 cpu-blocked; negative branch on cpu", "what the manifest says");
    let devices = engine.devices();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].name, "cpu,cpu", "what the metrics say");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_gets_the_device_that_has_its_model() {
    let engine = two_devices();
    for _ in 0..2 {
        run(&engine, decompose(1)).await.unwrap();
        run(&engine, edit(OutputSize::Source, picture("badge.png"))).await.unwrap();
    }
    let models: Vec<_> = engine
        .devices()
        .into_iter()
        .map(|device| (device.resident.decompose.is_some(), device.resident.edit.is_some()))
        .collect();
    assert_eq!(models, [(true, false), (false, true)]);
    let both = engine.resident().borrow().clone();
    assert!(both.decompose.is_some() && both.edit.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_fails_leaves_and_the_others_go_on() {
    let engine = two_devices();
    let fail = || engine.run(decompose(1), CancelToken::default(), Box::new(|_, _, _| panic!("the device is lost")));
    let error = fail().await.unwrap_err();
    assert!(error.to_string().contains("the device is lost"), "{error}");
    assert!(engine.has_others() && engine.usable() == 1);
    // More calls than devices: none of them waits for the lost one.
    let (one, two) = tokio::join!(run(&engine, decompose(1)), run(&engine, decompose(1)));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(engine.devices().iter().filter(|device| !device.usable).count(), 1);

    fail().await.unwrap_err();
    assert!(!engine.has_others() && engine.usable() == 0);
    let error = run(&engine, decompose(1)).await.unwrap_err();
    assert!(error.to_string().contains("restart the process"), "{error}");
}

#[tokio::test]
async fn a_job_may_name_only_allowed_loras() {
    let file = golden("loras/layered-bare.safetensors").display().to_string();
    let allowed_loras = AllowedLoras::parse(&[file]).unwrap();
    let engine = Engine::start(&EngineConfig { allowed_loras, ..config(&golden("checkpoints/layered")) }).unwrap();
    let with = |name: &str| {
        let Work::Decompose { image, params, seed } = decompose(1) else { unreachable!() };
        let loras = Some(vec![LoraParam { name: name.to_owned(), strength: 0.5 }]);
        Work::Decompose { image, params: DecomposeParams { loras, ..params }, seed }
    };
    let outcome = run(&engine, with("layered-bare")).await.unwrap();
    let [lora] = outcome.model.loras.as_slice() else { panic!("{:?}", outcome.model) };
    assert_eq!((lora.strength, lora.rank, lora.modules), (0.5, 2, 48));
    let error = run(&engine, with("/etc/passwd")).await.unwrap_err();
    assert!(matches!(&error, JobError::InvalidRequest { field, .. } if field == "params.loras[0].name"), "{error}");
    assert!(error.to_string().contains("qwen_image.allowed_loras: layered-bare"), "{error}");
    // The next job without a name has none.
    assert!(run(&engine, decompose(1)).await.unwrap().model.loras.is_empty());
}

#[tokio::test]
async fn the_edit_model_is_loaded_when_asked() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    engine.load_edit_model(CancelToken::default(), silent()).await.unwrap();
    assert!(engine.resident().borrow().edit.is_some() && engine.resident().borrow().decompose.is_none());
}

#[tokio::test]
async fn the_record_says_how_pictures_were_read_and_the_choice_counts() {
    let mut config = config(&golden("checkpoints/layered"));
    let mut pictures = Vec::new();
    let asked = Conditioning {
        text_positions: Some(TextPositions::Sequential),
        image_processor: Some(ImageProcessorBackend::Pil),
    };
    for (conditioning, expected) in
        [(Conditioning::default(), ["multimodal", "torchvision"]), (asked, ["sequential", "pil"])]
    {
        config.pipeline.conditioning = conditioning;
        let engine = Engine::start(&config).unwrap();
        let mut outcome = run(&engine, edit(OutputSize::Model, picture("house.png"))).await.unwrap();
        let record = &outcome.model;
        let found = [&record.text_positions, &record.image_processor].map(|word| word.as_deref().unwrap());
        assert_eq!(found, expected);
        pictures.push(outcome.images.remove(0));
        let record = run(&engine, decompose(1)).await.unwrap().model;
        assert_eq!((record.text_positions, record.image_processor.as_deref()), (None, Some(expected[1])));
    }
    assert_ne!(pictures[0], pictures[1]);
}

#[tokio::test]
async fn an_edited_layer_keeps_its_size_and_every_bit_of_its_alpha() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let layer = picture("badge.png");
    let layer = ::image::imageops::crop_imm(&layer, 3, 5, 61, 45).to_image();
    let alpha = |image: &RgbaImage| image.pixels().map(|pixel| pixel[3]).collect::<Vec<_>>();
    assert!(alpha(&layer).iter().any(|&a| a > 0 && a < 255), "the fixture has soft edges");
    let source = run(&engine, edit(OutputSize::Source, layer.clone())).await.unwrap().images.remove(0);
    assert_eq!(source.dimensions(), layer.dimensions());
    assert_eq!(alpha(&source), alpha(&layer));
    assert_ne!(source, layer, "the edit changed nothing");
    let model = run(&engine, edit(OutputSize::Model, layer.clone())).await.unwrap().images.remove(0);
    assert_eq!(model.width() % 32, 0);
    assert_ne!(model.dimensions(), layer.dimensions());
}

#[tokio::test]
async fn cancel_takes_effect_within_a_step() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let cancel = CancelToken::default();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let progress: ProgressFn = {
        let (cancel, steps) = (cancel.clone(), steps.clone());
        Box::new(move |stage, step, _| {
            if stage == Stage::Denoise {
                steps.lock().unwrap().push(step);
                if step == 3 {
                    cancel.cancel();
                }
            }
        })
    };
    let error = engine.run(decompose(1000), cancel, progress).await.unwrap_err();
    assert_eq!(error, JobError::Cancelled);
    assert_eq!(steps.lock().unwrap().iter().max(), Some(&3));
    run(&engine, decompose(1)).await.expect("the engine goes on after a cancel");
}

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_with_the_numbers() {
    let options = PipelineOptions { memory_budget: Some(1 << 20), ..PipelineOptions::default() };
    let engine = Engine::start(&with_options(&golden("checkpoints/layered"), options)).unwrap();
    let error = run(&engine, decompose(1)).await.unwrap_err();
    assert_eq!(error.code(), "model_too_large");
    let message = error.to_string();
    assert!(message.contains("as f32") && message.contains("1.0 MiB are left of memory_budget"), "{message}");
    assert!(engine.resident().borrow().decompose.is_none());
}

/// Each model fits into this budget alone, but not both.
#[tokio::test]
async fn the_budget_is_for_both_models() {
    let options = PipelineOptions { memory_budget: Some(137 << 20), ..PipelineOptions::default() };
    let engine = Engine::start(&with_options(&golden("checkpoints/layered"), options.clone())).unwrap();
    run(&engine, decompose(1)).await.unwrap();
    let error = run(&engine, edit(OutputSize::Source, picture("badge.png"))).await.unwrap_err();
    assert_eq!(error.code(), "model_too_large", "{error}");
    let engine = Engine::start(&with_options(Path::new("unused"), options)).unwrap();
    run(&engine, edit(OutputSize::Source, picture("badge.png"))).await.expect("alone it fits");
}

#[tokio::test]
async fn a_line_is_no_picture() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let params = DecomposeParams { prompt: "x".into(), ..DecomposeParams::default() };
    let image = RgbaImage::new(3000, 1);
    let error = run(&engine, Work::Decompose { image, params, seed: 1 }).await.unwrap_err();
    insta::assert_snapshot!(error, @"input: the picture is 3000x1; one side may be at most 200 times the other, so crop it");
    let error = run(&engine, edit(OutputSize::Source, RgbaImage::new(3, 900))).await.unwrap_err();
    assert_eq!(error.code(), "invalid_request");
}

#[tokio::test]
async fn a_device_that_this_build_cannot_drive_is_refused_at_once() {
    if cfg!(feature = "cuda") {
        return;
    }
    let options = PipelineOptions { device: DeviceChoice::Cuda(0), ..PipelineOptions::default() };
    let config = with_options(Path::new("unused"), options);
    insta::assert_snapshot!(Engine::start(&config).unwrap_err(), @"qwen_image.device: this build has no CUDA; use cpu, or a build with the `cuda` feature");
}

#[tokio::test]
async fn the_end_of_a_long_prompt_is_noted() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let params = DecomposeParams { prompt: "red house ".repeat(1500), steps: 1, ..DecomposeParams::default() };
    let outcome = run(&engine, Work::Decompose { image: picture("house.png"), params, seed: 1 }).await.unwrap();
    assert!(outcome.notes.iter().any(|note| note.starts_with("prompt has ")), "{:?}", outcome.notes);
    assert!(outcome.notes.iter().any(|note| note.contains("noise")), "the checkpoint's own note: {:?}", outcome.notes);
}

#[tokio::test]
async fn a_resolution_that_the_checkpoint_does_not_know_names_those_it_does() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let params = DecomposeParams { resolution: Some(640), prompt: "x".into(), ..DecomposeParams::default() };
    let error = run(&engine, Work::Decompose { image: picture("house.png"), params, seed: 1 }).await.unwrap_err();
    insta::assert_snapshot!(error, @"params.resolution: 640 is not supported by this checkpoint, which was made for 128 or 192");
}

#[tokio::test]
async fn a_small_model_that_is_nowhere_says_what_to_give() {
    let model = ModelRef::Small { which: Small::Layered, paths: SmallModelPaths::default() };
    let engine = Engine::start(&EngineConfig { model, ..config(Path::new("unused")) }).unwrap();
    let error = run(&engine, decompose(1)).await.unwrap_err();
    insta::assert_snapshot!(error, @"model layered-nano: no model was chosen, and the small default was not found in any folder, because this process does not know its own path; give --model a folder in diffusers' layout or a hub id such as Qwen/Qwen-Image-Layered, or set qwen_image.model_path in the configuration; `acetate models pull Qwen/Qwen-Image-Layered` downloads it, about 58 GB");
}

/// A checkpoint with one NaN weight must fail with its own code, not give a black picture.
#[tokio::test]
async fn nan_latents_fail_with_their_own_code() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("checkpoints/layered");
    let link = |from: &Path, to: &Path, except: &str| {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != *except {
                std::os::unix::fs::symlink(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    };
    let transformer = folder.path().join("transformer");
    std::fs::create_dir(&transformer).unwrap();
    let file = "diffusion_pytorch_model.safetensors";
    link(&source, folder.path(), "transformer");
    link(&source.join("transformer"), &transformer, file);
    let device = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(source.join("transformer").join(file), &device).unwrap();
    let bias = tensors.get_mut("proj_out.bias").unwrap();
    *bias = (bias.zeros_like().unwrap() + f64::NAN).unwrap();
    candle_core::safetensors::save(&tensors, transformer.join(file)).unwrap();

    let engine = Engine::start(&config(folder.path())).unwrap();
    let error = run(&engine, decompose(4)).await.unwrap_err();
    assert_eq!(error.to_string(), "the latents became NaN or infinite at step 1; no picture was written");
    assert_eq!(error.code(), "non_finite");
}

#[tokio::test]
async fn several_seeds_share_what_is_encoded_and_the_progress() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    let alone = run(&engine, decompose(2)).await.unwrap();
    let (seen, (each, mut outputs)) = (Arc::new(Mutex::new(Vec::new())), mpsc::channel(1));
    let told = seen.clone();
    let progress: ProgressFn = Box::new(move |stage, step, steps| told.lock().unwrap().push((stage, step, steps)));
    let run = engine.run_seeds(decompose(2), vec![3, 1, 2], each, CancelToken::default(), progress);
    let collected = async {
        let mut all = Vec::new();
        while let Some(output) = outputs.recv().await {
            all.push(output);
        }
        all
    };
    let (outcome, all) = tokio::join!(run, collected);
    assert!(outcome.unwrap().images.is_empty());
    assert_eq!(all.iter().map(|output| output.seed).collect::<Vec<_>>(), [3, 1, 2]);
    assert_eq!(all[1].images, alone.images);
    assert_ne!(all[0].images, alone.images);
    let seen = seen.lock().unwrap();
    let of =
        |wanted: Stage| seen.iter().filter(move |(stage, ..)| *stage == wanted).map(|(_, step, steps)| (*step, *steps));
    for once in [Stage::TextEncode, Stage::VaeEncode] {
        assert_eq!(of(once).filter(|at| *at == (0, 0)).count(), 1, "{once:?}");
    }
    let denoise: Vec<_> = of(Stage::Denoise).skip(1).collect();
    assert!(denoise.iter().all(|(_, steps)| *steps == 6) && denoise.is_sorted(), "{denoise:?}");
    assert_eq!((denoise.last(), of(Stage::VaeDecode).next_back()), (Some(&(6, 6)), Some((9, 9))));
}

#[tokio::test]
async fn several_seeds_are_cancelled_between_and_within_their_runs() {
    let engine = Engine::start(&config(&golden("checkpoints/layered"))).unwrap();
    for (stage, at) in [(Stage::Denoise, 3), (Stage::VaeDecode, 4)] {
        let (each, mut outputs) = mpsc::channel(8);
        let cancel = CancelToken::default();
        let stop = cancel.clone();
        let progress: ProgressFn = Box::new(move |now, step, _| {
            if (now, step) == (stage, at) {
                stop.cancel();
            }
        });
        let error = engine.run_seeds(decompose(2), vec![3, 1, 2], each, cancel, progress).await.unwrap_err();
        assert!(matches!(error, JobError::Cancelled), "{error}");
        let made = std::iter::from_fn(|| outputs.try_recv().ok()).count();
        assert_eq!(made, usize::from(stage == Stage::VaeDecode));
    }
    // Nobody waits for the outputs.
    let (each, outputs) = mpsc::channel(1);
    drop(outputs);
    let error = engine.run_seeds(decompose(1), vec![1, 2], each, CancelToken::default(), silent()).await.unwrap_err();
    assert!(matches!(error, JobError::Cancelled), "{error}");
    run(&engine, decompose(1)).await.unwrap();
}
