//! The hooks for samplers, caches, masks and previews: they see the right tensors, and change nothing by themselves.

use candle_core::{DType, Device, Tensor};
use qwen_image::{
    Callbacks, DecomposeOptions, DecomposeOutput, Sampler, SamplingRecord,
    models::{
        BlockPlacement, LoadContext,
        transformer::{Branch, Frame, StepModulations, TokenRotations, Transformer},
    },
    pipeline::{QwenImageLayeredPipeline, StepCache},
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

        // A cache would keep these: the patches after each block except the last.
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

        // Setting the same patches again changes nothing.
        let mut pass = begin();
        assert!(pass.next_block().unwrap());
        pass.set_hidden(0, kept[0].clone()).unwrap();
        while pass.next_block().unwrap() {}
        assert_eq!(bits(&pass.finish().unwrap()[0]), bits(&expected), "{place:?}");

        // A pass that ends early gives a different result of the same shape, and does not disturb the next one.
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

fn run(pipeline: &QwenImageLayeredPipeline, options: &DecomposeOptions) -> DecomposeOutput {
    let picture = ::image::open(golden("pictures/house.png")).unwrap().to_rgba8();
    pipeline.run(&picture, options, 7, &mut Callbacks::default()).unwrap()
}

#[test]
fn the_record_says_how_a_run_was_sampled() {
    let pipeline = QwenImageLayeredPipeline::load(&golden("checkpoints/layered"), &Device::Cpu, DType::F32).unwrap();
    let exact = DecomposeOptions {
        prompt: "A house.".to_owned(),
        layers: 2,
        num_inference_steps: 12,
        ..DecomposeOptions::default()
    };
    let plain = run(&pipeline, &exact);
    let SamplingRecord { sampler, sigmas, skipped_steps, passes, parallel_passes: _ } = &plain.sampling;
    assert_eq!((*sampler, sigmas.len(), skipped_steps.len(), *passes), (Sampler::Euler, 13, 0, 24));

    let own = sigmas.iter().map(|&sigma| f64::from(sigma)).collect();
    let explicit = run(&pipeline, &DecomposeOptions { sigmas: Some(own), ..exact.clone() });
    assert_eq!(explicit.images, plain.images, "the same levels, given by the caller");

    let half = run(&pipeline, &DecomposeOptions { cfg_until: 0.5, ..exact.clone() });
    assert_eq!(half.sampling.passes, 18);
    assert_ne!(half.images, plain.images);
    let none = run(&pipeline, &DecomposeOptions { cfg_until: 0.0, ..exact.clone() });
    let scale_1 = run(&pipeline, &DecomposeOptions { cfg_scale: 1.0, ..exact.clone() });
    assert_eq!((none.sampling.passes, scale_1.sampling.passes), (12, 12));
    assert_eq!(none.images, scale_1.images, "no guidance is guidance 1");
}

/// With trained weights: random ones bend the flow so much that no step can be skipped.
#[test]
fn the_step_cache_skips_steps_of_a_run() {
    let pipeline =
        QwenImageLayeredPipeline::load(&golden("../../models/layered-nano"), &Device::Cpu, DType::F32).unwrap();
    let options = DecomposeOptions {
        prompt: "A cyan star above a purple house.".to_owned(),
        layers: 2,
        num_inference_steps: 20,
        step_cache: 2,
        ..DecomposeOptions::default()
    };
    let picture = ::image::open(golden("../../examples/scene.png")).unwrap().to_rgba8();
    let sampling = pipeline.run(&picture, &options, 7, &mut Callbacks::default()).unwrap().sampling;
    let skipped = &sampling.skipped_steps;
    assert!(!skipped.is_empty() && skipped[0] > 4 && *skipped.last().unwrap() <= 18, "{skipped:?}");
    assert!(skipped.windows(3).all(|three| three[2] - three[0] > 2), "at most two in a row: {skipped:?}");
    assert_eq!(sampling.passes, 2 * (20 - skipped.len() as u32));
}

/// A cache that must skip, on velocities that are a line in time, gives them exactly.
#[test]
fn a_skipped_step_continues_the_velocity_in_time() {
    let at = |value: f32| Tensor::full(value, (1, 4, 2), &Device::Cpu).unwrap();
    let mut cache = StepCache::new(1, 2, 12);
    let mut skipped = Vec::new();
    for step in 0..12 {
        let sigma = 1.0 - step as f64 / 12.0;
        let latents = at(1.0 + 0.01 * step as f32);
        match cache.skip(step, sigma, &latents, 2).unwrap() {
            Some(velocities) => {
                skipped.push(step);
                for (velocity, slope) in velocities.iter().zip([2.0, -3.0]) {
                    let found = velocity.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert!(found.iter().all(|value| (value - (5.0 + slope * sigma as f32)).abs() < 1e-5), "{found:?}");
                }
            }
            None => {
                let velocities = [at(5.0 + 2.0 * sigma as f32), at(5.0 - 3.0 * sigma as f32)];
                cache.computed(sigma, &latents, &velocities).unwrap();
            }
        }
    }
    assert_eq!(skipped, [4, 6, 8], "not among the first four or the last two, and one in a row");
}

#[test]
fn one_frame_that_moves_keeps_a_step_from_being_skipped() {
    let of = |calm: f32, moving: f32| Tensor::new(&[[[calm], [calm], [moving], [moving]]], &Device::Cpu).unwrap();
    let run = |frame: usize| {
        let mut cache = StepCache::new(3, frame, 12);
        for step in 0..5 {
            let (sigma, latents) = (1.0 - step as f64 / 12.0, of(100.0 + step as f32, step as f32));
            if cache.skip(step, sigma, &latents, 1).unwrap().is_none() {
                let turned = if step % 2 == 0 { 1.0 } else { -1.0 };
                cache.computed(sigma, &latents, &[of(1000.0, turned)]).unwrap();
            }
        }
        cache.skipped().len()
    };
    assert_eq!(run(4), 1, "as one frame, the calm half hides the other");
    assert_eq!(run(2), 0, "as two frames, the moving one decides");
}
