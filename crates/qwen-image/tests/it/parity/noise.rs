use qwen_image::pipeline::randn;

use super::bars::tensors;

/// Bit for bit up to the last place of torch's vectorized logarithm, sine and cosine.
#[test]
fn noise_is_torchs_for_every_seed_and_length() {
    let tensors = tensors("noise");
    assert!(tensors.len() >= 40, "{} vectors", tensors.len());
    for (name, expected) in tensors {
        let (seed, count) = name.strip_prefix("randn_").unwrap().rsplit_once('_').unwrap();
        let found = randn(seed.parse().unwrap(), count.parse().unwrap());
        let expected: Vec<f32> = expected.to_vec1().unwrap();
        assert_eq!(found.len(), expected.len());
        for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{name}[{index}]: {a} against {b}");
        }
    }
}
