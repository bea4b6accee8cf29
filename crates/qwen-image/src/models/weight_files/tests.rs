//! Every type is read as the `gguf` package and torch read it; `tests/golden/forms.py` made the files.

use std::collections::HashMap;

use super::*;
use crate::nn::float8;

fn forms(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/forms").join(name)
}

fn expected() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(forms("types.safetensors"), &Device::Cpu).unwrap()
}

#[test]
fn every_type_is_dequantized_as_the_gguf_package_does_it() {
    let path = forms("types.gguf");
    let files = WeightFiles::new(vec![path.clone()], Raw::read(&path).unwrap(), None).unwrap();
    let expected = expected();
    assert_eq!(files.tensors.len(), 12);
    for (name, stored) in &files.tensors {
        let blocks = !["F16", "F32"].contains(&name.as_str());
        assert!(stored.form.name() == *name && stored.shape == [4, 512] && stored.stays() == blocks, "{stored:?}");
        let numbers = |tensor: &Tensor| -> Vec<f32> {
            tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let wanted = numbers(&expected[name]);
        let top = wanted.iter().fold(0.0_f32, |top, x| top.max(x.abs()));
        let mut read = vec![files.numbers(stored).unwrap()];
        if blocks {
            let weight = files.weight(stored, None, &Device::Cpu).unwrap();
            read.push(weight.dequantize(DType::F32).unwrap());
        }
        for read in read {
            for (found, wanted) in numbers(&read).iter().zip(&wanted) {
                assert!((found - wanted).abs() <= 1e-6 * top, "{name}: {found} instead of {wanted}");
            }
        }
    }
}

#[test]
fn fp8_numbers_are_those_of_the_reference() {
    let expected = expected();
    let numbers = |name: &str| expected[name].to_vec1::<f32>().unwrap();
    for (name, decode) in [("e4m3", float8::e4m3 as fn(u8) -> f32), ("e5m2", float8::e5m2)] {
        for (found, wanted) in float8::table(decode).iter().zip(numbers(name)) {
            assert!(*found == wanted || (found.is_nan() && wanted.is_nan()), "{name}: {found} instead of {wanted}");
        }
    }
    for (number, wanted) in numbers("numbers").iter().zip(numbers("numbers_e4m3")) {
        assert_eq!(float8::e4m3(float8::to_e4m3(*number)), wanted, "{number}");
    }
}
