//! The places where samplers, caches, masks and previews join: they see what they should, and change nothing by
//! themselves.

use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, DecomposeOptions,
    models::{
        BlockPlacement, LoadContext,
        transformer::{Branch, Frame, StepModulations, TokenRotations, Transformer},
    },
    pipeline::QwenImageLayeredPipeline,
};

use super::bars::{golden, tensors};

struct Given {
    hidden: Tensor,
    text: Tensor,
    rotations: TokenRotations,
    modulations: StepModulations,
}

fn transformer(place: BlockPlacement) -> Transformer {
    let context = LoadContext::new(&Device::Cpu, DType::F32);
    Transformer::load_with(&golden("checkpoints/layered/transformer"), context, place, false).unwrap()
}

fn given(model: &Transformer) -> Given {
    let stored = tensors("transformer_layered");
    let frames: Vec<Frame> = stored["img_shapes"]
        .to_vec2::<i64>()
        .unwrap()
        .into_iter()
        .map(|shape| Frame { height: shape[1] as usize, width: shape[2] as usize })
        .collect();
    let text = model.project_text(&stored["encoder_hidden_states"]).unwrap();
    let rotations = model.rotations(&frames, text.dim(1).unwrap(), &Device::Cpu).unwrap();
    let modulations = model.modulations(0.5, &Device::Cpu).unwrap();
    Given { hidden: stored["hidden_states"].clone(), text, rotations, modulations }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_pass_that_is_stepped_cut_and_resumed_is_right() {
    let whole = transformer(BlockPlacement::OnDevice);
    let Given { hidden, text, rotations, modulations } = given(&whole);
    let targets = hidden.dim(1).unwrap() / 2;
    let expected = whole.forward(&hidden, &text, &modulations, &rotations, targets).unwrap();
    for place in
        [BlockPlacement::OnDevice, BlockPlacement::Streamed { resident: 0 }, BlockPlacement::Streamed { resident: 1 }]
    {
        let model = transformer(place);
        let modulations = model.modulations(0.5, &Device::Cpu).unwrap();
        let branches = [Branch { text: &text, rotations: &rotations }];
        let begin = || model.begin(&hidden, &branches, &modulations, targets).unwrap();

        // What a cache would keep: the patches after each block but the last.
        let mut pass = begin();
        let blocks = pass.progress().1;
        let mut kept = Vec::new();
        for done in 1..blocks {
            assert!(pass.next_block().unwrap());
            assert_eq!(pass.progress().0, done);
            kept.push(pass.hidden(0).clone());
        }
        assert!(pass.next_block().unwrap() && !pass.next_block().unwrap());
        assert_eq!(bits(&pass.finish().unwrap()[0]), bits(&expected), "{place:?}");

        // Patches put back where they were taken from change nothing.
        let mut pass = begin();
        assert!(pass.next_block().unwrap());
        pass.set_hidden(0, kept[0].clone()).unwrap();
        while pass.next_block().unwrap() {}
        assert_eq!(bits(&pass.finish().unwrap()[0]), bits(&expected), "{place:?}");

        // A pass that ends early gives something else of the same shape, and does not disturb the next one.
        let mut cut = begin();
        assert!(cut.next_block().unwrap());
        assert!(cut.set_hidden(0, text.clone()).is_err(), "patches of another shape are refused");
        let early = cut.finish().unwrap().remove(0);
        assert_eq!(early.dims(), expected.dims());
        assert_ne!(bits(&early), bits(&expected));
        assert_eq!(bits(&model.forward(&hidden, &text, &modulations, &rotations, targets).unwrap()), bits(&expected));
    }
}

#[test]
fn the_hook_after_each_step_may_change_the_latents() {
    let pipeline = QwenImageLayeredPipeline::load(&golden("checkpoints/layered"), &Device::Cpu, DType::F32).unwrap();
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    let options = DecomposeOptions {
        prompt: "A house.".to_owned(),
        layers: 2,
        num_inference_steps: 2,
        ..DecomposeOptions::default()
    };
    let run = |seed: u64, clear: bool| {
        let mut steps = Vec::new();
        let mut callbacks = Callbacks::default().on_step_end(|step, latents: &mut Tensor| {
            steps.push(step);
            if clear && step == 2 {
                *latents = latents.zeros_like()?;
            }
            Ok(())
        });
        let images = pipeline.run(&picture, &options, seed, &mut callbacks).unwrap().images;
        drop(callbacks);
        assert_eq!(steps, [1, 2]);
        images
    };
    assert_ne!(run(1, false), run(2, false));
    assert_eq!(run(1, true), run(2, true), "cleared latents depend on no seed");
}
