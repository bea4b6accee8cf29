//! Times each kernel of a transformer block on its own, at the sizes of the full model, to show how far each is from
//! the device's limits.

use candle_core::Tensor;

use super::{Bench, CASES, Case, Failed};
use qwen_image::nn::{self, AttentionMask, Linear, QkvPart, RmsNorm, Rotation};

const HEADS: usize = 24;
const HEAD: usize = 128;
const DIM: usize = HEADS * HEAD;
const EPS: f64 = 1e-6;

/// The number of consecutive calls that are timed together, so that the clocks settle as in a long run.
const CALLS: usize = 40;

impl Bench<'_> {
    pub(super) fn pieces(&mut self) -> Result<(), Failed> {
        let qkv = self.layer(3 * DIM, DIM)?;
        let out = self.layer(DIM, DIM)?;
        let up = self.layer(4 * DIM, DIM)?;
        let down = self.layer(DIM, 4 * DIM)?;
        let modulation = self.layer(6 * DIM, DIM)?;
        for Case { name, side, frames, text_tokens, .. } in CASES {
            let patches = side * side * frames;
            let tokens = patches + text_tokens;
            let products = [("qkv", &qkv, 3 * DIM, DIM, false), ("out", &out, DIM, DIM, false)]
                .into_iter()
                .chain([("up and gelu", &up, 4 * DIM, DIM, true), ("down", &down, DIM, 4 * DIM, false)]);
            for (piece, layer, columns, inner, gelu) in products {
                for (stream, rows) in [("", patches), (", text", text_tokens)] {
                    let x = self.random((1, rows, inner))?;
                    let operations = 2.0 * rows as f64 * columns as f64 * inner as f64;
                    self.piece(&format!("{name}: {piece}{stream}"), Some(operations), None, || {
                        if gelu { layer.forward_gelu(&x) } else { layer.forward(&x) }
                    })?;
                }
            }
            let (img, txt) = (self.random((1, patches, DIM))?, self.random((1, text_tokens, DIM))?);
            let norm = RmsNorm::new(self.random(HEAD)?, EPS);
            let (of_img, of_txt) = (self.rotation(patches)?, self.rotation(text_tokens)?);
            let part = |x, rotation| QkvPart { x, qkv: &qkv, norm_q: &norm, norm_k: &norm, rotation };
            let parts = [part(&txt, &of_txt), part(&img, &of_img)];
            // This includes the products; the rest is norm and rotation.
            let operations = 2.0 * (tokens * 3 * DIM * DIM) as f64;
            self.piece(&format!("{name}: qkv of both, norm and rope"), Some(operations), None, || {
                nn::joint_attention_qkv(&parts).map(|[q, ..]| q)
            })?;
            let [q, k, v] = nn::joint_attention_qkv(&parts)?;
            let operations = 4.0 * (tokens as f64).powi(2) * DIM as f64;
            let scale = (HEAD as f64).powf(-0.5);
            self.piece(&format!("{name}: attention"), Some(operations), None, || {
                nn::attention(&q, &k, &v, scale, AttentionMask::All)
            })?;
            let (other, row) = (self.random((1, patches, DIM))?, self.random((1, 1, DIM))?);
            let bytes = (4 * patches * DIM * self.dtype.size_in_bytes()) as f64;
            self.piece(&format!("{name}: gate, residual and norm"), None, Some(bytes), || {
                nn::gated_norm(&img, &row, &other, &row, &row, EPS).map(|(sum, _)| sum)
            })?;
        }
        let x = self.random((1, 1, DIM))?;
        let bytes = (6 * DIM * DIM * self.dtype.size_in_bytes()) as f64;
        self.piece("modulation of a stream", None, Some(bytes), || modulation.forward(&x))
    }

    fn piece(
        &mut self,
        name: &str,
        operations: Option<f64>,
        bytes: Option<f64>,
        mut work: impl FnMut() -> candle_core::Result<Tensor>,
    ) -> Result<(), Failed> {
        let times = |amount: f64| amount * CALLS as f64;
        let mut line = self.measure(name, operations.map(times), || (0..CALLS).try_for_each(|_| work().map(|_| ())))?;
        let share = |amount: f64| amount / CALLS as f64;
        line.name = format!("piece, {name}");
        line.milliseconds = share(line.milliseconds);
        line.runs = line.runs.into_iter().map(share).collect();
        line.operations = operations;
        line.bytes = bytes;
        line.peak_bytes = None;
        self.tell(line);
        Ok(())
    }

    fn layer(&self, out: usize, inner: usize) -> Result<Linear, Failed> {
        let weight = (self.random((out, inner))? * (inner as f64).powf(-0.5))?;
        let layer = Linear::new(&weight, Some(self.random(out)?))?;
        Ok(if self.fp8() { layer.into_fp8()? } else { layer })
    }

    fn rotation(&self, tokens: usize) -> Result<Rotation, Failed> {
        let angles = Tensor::randn(0.0_f32, 1.0, (tokens, HEAD / 2), &self.device)?;
        Ok(Rotation { cos: angles.cos()?, sin: angles.sin()? })
    }
}
