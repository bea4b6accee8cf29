//! The ways to a GPU and back: the same weights as the CPU reads, the same bytes wherever they wait, two models that
//! swap. Without a GPU every test passes and says so on the error stream.

use acetate::{
    engine::{CancelToken, DTypeChoice, DeviceChoice, Engine, EngineConfig, Offload, Outcome, Work},
    hub::{HubConfig, ModelRef},
    job::{DecomposeParams, EditParams},
    models::{Loading, Weights},
    nn,
    pipeline::{Control, DecomposePipeline, LoadOptions, Place, Placement},
};
use candle_core::{DType, Device};

use crate::bars::golden;

fn gpu() -> Option<Device> {
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        eprintln!("SKIPPED: this machine has no NVIDIA GPU");
        return None;
    }
    Some(nn::open_cuda(0).unwrap())
}

#[test]
fn uploaded_tensors_are_those_of_the_files() {
    let Some(gpu) = gpu() else { return };
    for part in ["transformer", "vae", "text_encoder"] {
        let folder = golden("checkpoints/layered").join(part);
        let (here, there) = (
            Weights::open(&folder, Loading::new(&Device::Cpu, DType::F32)).unwrap(),
            Weights::open(&folder, Loading::new(&gpu, DType::F32)).unwrap(),
        );
        // Backwards: every one is out of turn.
        for (name, shape) in here.names_and_shapes().into_iter().rev() {
            let (one, other) = (here.get(shape.clone(), &name).unwrap(), there.get(shape, &name).unwrap());
            let values = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values(one) == values(other), "{part}: {name}");
        }
        there.finish().unwrap();
        // Nobody takes these: they must be gone without harm.
        drop(Weights::open(&folder, Loading::new(&gpu, DType::F32)).unwrap());
    }
}

#[test]
fn a_gpu_gives_the_same_bytes_wherever_the_weights_wait() {
    let Some(gpu) = gpu() else { return };
    let turns = Placement { text_encoder: Place::IN_TURN, transformer: Place::IN_TURN, vae: Place::IN_TURN };
    let streamed = |resident| Placement {
        text_encoder: Place::streamed(resident),
        transformer: Place::streamed(resident),
        ..turns
    };
    let run = |placement| {
        let options = LoadOptions { placement, ..LoadOptions::new(Loading::new(&gpu, DType::BF16)) };
        let pipeline = DecomposePipeline::load_with(&golden("checkpoints/layered"), options).unwrap();
        let params = DecomposeParams { layers: 2, steps: 3, ..DecomposeParams::default() };
        let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
        let (mut ignore, never) = (|_, _, _| (), || false);
        let mut control = Control::new(&mut ignore, &never);
        let made = pipeline.run(&picture, &params, 7, &mut control, |_, _| ()).unwrap();
        made.images.into_iter().map(|image| image.into_raw()).collect::<Vec<_>>()
    };
    let kept = run(Placement::KEPT);
    for placement in [Placement::KEPT, turns, streamed(0), streamed(1)] {
        assert!(run(placement) == kept, "{placement:?}");
    }
}

#[tokio::test]
async fn two_models_swap_when_the_budget_holds_one() {
    if gpu().is_none() {
        return;
    }
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    let decompose = || {
        let params =
            DecomposeParams { prompt: "A house.".to_owned(), layers: 2, steps: 1, ..DecomposeParams::default() };
        Work::Decompose { image: picture.clone(), params, seed: 1 }
    };
    let edit = || {
        let params = EditParams { instruction: "Make it blue.".to_owned(), steps: 1, ..EditParams::default() };
        Work::Edit { images: vec![picture.clone()], params, seed: 1 }
    };
    let config = |vram_budget, offload| EngineConfig {
        model: ModelRef::Folder(golden("checkpoints/layered")),
        edit_model: ModelRef::Folder(golden("checkpoints/edit")),
        load_edit_model: false,
        device: DeviceChoice::Cuda(0),
        dtype: DTypeChoice::Bf16,
        offload,
        vram_budget,
        memory_budget: Some(1 << 34),
        hub: HubConfig::new("http://127.0.0.1:9", "/nonexistent"),
    };
    let run = async |engine: &Engine, work: Work| -> Outcome {
        engine.run(work, CancelToken::default(), Box::new(|_, _, _| ())).await.unwrap()
    };
    let free = Engine::start(config(None, Offload::Auto)).unwrap();
    let expected = [run(&free, decompose()).await, run(&free, edit()).await];
    assert!(expected[0].device.contains("all on the device"), "{}", expected[0].device);
    for offload in [Offload::Auto, Offload::Model, Offload::Sequential] {
        let tight = Engine::start(config(None, offload)).unwrap();
        for _ in 0..2 {
            let found = [run(&tight, decompose()).await, run(&tight, edit()).await];
            for (found, expected) in found.iter().zip(&expected) {
                assert!(found.images == expected.images, "{offload:?}: {}", found.device);
            }
        }
    }
}
