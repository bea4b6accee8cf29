//! Transfers to a GPU and back: the same weights as the CPU reads, the same bytes wherever they are kept, two models
//! that swap. Without a GPU nothing is tested, and every test says so on stderr, which the test harness does not
//! capture.

use std::io::Write;

use candle_core::{DType, Device};
use qwen_image::{
    Callbacks, ComputeDType, CpuOffload, DecomposeOptions, DeviceChoice, EditInputs, EditOptions, PipelineOptions,
    QwenImagePipeline,
    hub::{HubConfig, ModelRef},
    models::{Component, LoadContext, Weights},
    nn,
    pipeline::{ComponentPlacement, DeviceMap, LoadOptions, QwenImageLayeredPipeline},
};

use super::bars::golden;

fn gpu() -> Option<Device> {
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        std::io::stderr().write_all(b"SKIPPED the ways to a GPU: this machine has no NVIDIA GPU\n").unwrap();
        return None;
    }
    Some(nn::open_cuda(0).unwrap())
}

#[test]
fn uploaded_tensors_are_those_of_the_files() {
    let Some(gpu) = gpu() else { return };
    for (part, component) in
        [("transformer", Component::Transformer), ("vae", Component::Vae), ("text_encoder", Component::TextEncoder)]
    {
        let folder = golden("checkpoints/layered").join(part);
        let (here, there) = (
            Weights::open(&folder, component, LoadContext::new(&Device::Cpu, DType::F32)).unwrap(),
            Weights::open(&folder, component, LoadContext::new(&gpu, DType::F32)).unwrap(),
        );
        // Backward, so that every request is out of order.
        for (name, shape) in here.names_and_shapes().into_iter().rev() {
            let (one, other) = (here.get(shape.clone(), &name).unwrap(), there.get(shape, &name).unwrap());
            let values = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values(one) == values(other), "{part}: {name}");
        }
        there.finish().unwrap();
        // These are never taken, and dropping them must do no harm.
        drop(Weights::open(&folder, component, LoadContext::new(&gpu, DType::F32)).unwrap());
    }
}

#[test]
fn a_gpu_gives_the_same_bytes_wherever_the_weights_wait() {
    let Some(gpu) = gpu() else { return };
    let turns = DeviceMap {
        text_encoder: ComponentPlacement::IN_TURN,
        transformer: ComponentPlacement::IN_TURN,
        vae: ComponentPlacement::IN_TURN,
    };
    let streamed = |resident| DeviceMap {
        text_encoder: ComponentPlacement::streamed(resident),
        transformer: ComponentPlacement::streamed(resident),
        ..turns
    };
    let run = |placement| {
        let options = LoadOptions { placement, ..LoadOptions::new(LoadContext::new(&gpu, DType::BF16)) };
        let pipeline = QwenImageLayeredPipeline::load_with(&golden("checkpoints/layered"), options).unwrap();
        let params = DecomposeOptions { layers: 2, num_inference_steps: 3, ..DecomposeOptions::default() };
        let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
        let made = pipeline.run(&picture, &params, 7, &mut Callbacks::default()).unwrap();
        made.images.into_iter().map(|image| image.into_raw()).collect::<Vec<_>>()
    };
    let kept = run(DeviceMap::KEPT);
    for placement in [DeviceMap::KEPT, turns, streamed(0), streamed(1)] {
        assert!(run(placement) == kept, "{placement:?}");
    }
}

#[test]
fn two_models_swap_when_the_budget_holds_one() {
    if gpu().is_none() {
        return;
    }
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    let start = |cpu_offload| {
        let options = PipelineOptions {
            edit_model: Some(ModelRef::Folder(golden("checkpoints/edit"))),
            load_edit_model: false,
            device: DeviceChoice::Cuda(0),
            dtype: Some(ComputeDType::Bf16),
            cpu_offload,
            memory_budget: Some(1 << 34),
            hub: HubConfig::new("http://127.0.0.1:9", "/nonexistent"),
            ..PipelineOptions::default()
        };
        QwenImagePipeline::lazy(ModelRef::Folder(golden("checkpoints/layered")), options).unwrap()
    };
    let both = |pipeline: &mut QwenImagePipeline| {
        let mut callbacks = Callbacks::default();
        let options = DecomposeOptions {
            prompt: "A house.".to_owned(),
            layers: 2,
            num_inference_steps: 1,
            seed: Some(1),
            ..DecomposeOptions::default()
        };
        let (layers, used) = pipeline.decompose_with(&picture, &options, &mut callbacks).unwrap();
        let options = EditOptions { num_inference_steps: 1, seed: Some(1), ..EditOptions::default() };
        let inputs = EditInputs { image: &picture, references: &[], mask: None };
        let (edited, _) = pipeline.edit_with(inputs, "Make it blue.", &options, &mut callbacks).unwrap();
        ([layers.images, vec![edited.image]].concat(), used.device)
    };
    let (expected, device) = both(&mut start(CpuOffload::Auto));
    assert!(device.contains("all on the device"), "{device}");
    for offload in [CpuOffload::Auto, CpuOffload::Model, CpuOffload::Sequential] {
        let mut tight = start(offload);
        for _ in 0..2 {
            let (found, device) = both(&mut tight);
            assert!(found == expected, "{offload:?}: {device}");
        }
    }
}
