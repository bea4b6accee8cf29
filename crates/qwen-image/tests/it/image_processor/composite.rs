use super::*;

/// "Over" in float64, rounded once.
fn over(stack: &[Rgba<u8>]) -> [f64; 4] {
    let (mut color, mut alpha) = ([0.0; 3], 0.0);
    for Rgba([r, g, b, a]) in stack {
        let a = f64::from(*a) / 255.0;
        for (sum, value) in color.iter_mut().zip([r, g, b]) {
            *sum = f64::from(*value) * a + *sum * (1.0 - a);
        }
        alpha = a + alpha * (1.0 - a);
    }
    let [r, g, b] = color.map(|sum| if alpha > 0.0 { sum / alpha } else { 0.0 });
    [r, g, b, alpha * 255.0]
}

#[test]
fn a_stack_equals_over_in_float64_rounded_once() {
    let layers: Vec<RgbaImage> = (0..5).map(|seed| noise_rgba(64, 48, seed + 10)).collect();
    let whole = image::composite(&layers).expect("one size");
    for (x, y, pixel) in whole.enumerate_pixels() {
        let stack: Vec<_> = layers.iter().map(|layer| *layer.get_pixel(x, y)).collect();
        for (got, exact) in pixel.0.iter().zip(over(&stack)) {
            let off = (f64::from(*got) - exact).abs();
            assert!(off <= 0.501, "({x}, {y}) is {got}, exact {exact}, from {stack:?}");
        }
    }
}

#[test]
fn transparent_pixels_leave_and_opaque_pixels_replace_bit_for_bit() {
    let back = noise_rgba(32, 32, 3);
    let mut clear = noise_rgba(32, 32, 4);
    clear.pixels_mut().for_each(|pixel| pixel.0[3] = 0);
    let mut solid = noise_rgba(32, 32, 5);
    solid.pixels_mut().for_each(|pixel| pixel.0[3] = 255);
    let put = |layers: &[&RgbaImage]| {
        let layers: Vec<RgbaImage> = layers.iter().map(|layer| (*layer).clone()).collect();
        image::composite(&layers).expect("one size")
    };
    assert_eq!(put(&[&back, &clear, &clear]), back);
    assert_eq!(put(&[&back, &solid]), solid);
    assert_eq!(put(&[&back, &solid, &clear]), solid);
    assert_eq!(put(&[&clear, &back])[(0, 0)], if back[(0, 0)].0[3] == 0 { clear[(0, 0)] } else { back[(0, 0)] });
    assert_eq!(put(&[&back]), back);
}

#[test]
fn over_an_opaque_back_the_result_is_opaque() {
    let mut layers: Vec<RgbaImage> = (0..10).map(|seed| noise_rgba(40, 40, seed + 30)).collect();
    layers[0].pixels_mut().for_each(|pixel| pixel.0[3] = 255);
    let whole = image::composite(&layers).expect("one size");
    assert!(whole.pixels().all(|pixel| pixel.0[3] == 255));
}

#[test]
fn errors_name_the_layer_and_both_sizes() {
    let layers = [noise_rgba(4, 4, 1), noise_rgba(4, 4, 1), noise_rgba(4, 5, 1)];
    let error = image::composite(&layers).expect_err("another size");
    assert_eq!(error.to_string(), "layers[2]: is 4x5 pixels but layers[0] is 4x4; all layers must have the same size");
    assert_eq!(image::composite::<RgbaImage>(&[]), Err(image::ImageError::NoLayers));
}
