//! Optimizers on plain tensors, so that a checkpoint can carry their whole state.

use tch::{Kind, Tensor};

use super::OptimizerKind;
use crate::Result;
use crate::nn::TensorMap;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.99;
const EPS: f64 = 1e-8;
const MOMENTUM: f64 = 0.95;
/// AdamW's share of the learning rate for what Muon leaves to it.
const MUON_ADAM_RATIO: f64 = 0.05;

/// AdamW or Muon over named parameters.
pub struct Optimizer {
    kind: OptimizerKind,
    weight_decay: f64,
    /// First moments, or Muon's momentum.
    first: TensorMap,
    /// Second moments; only for parameters that AdamW updates.
    second: TensorMap,
}

impl Optimizer {
    pub fn new(kind: OptimizerKind, weight_decay: f64, parameters: &TensorMap) -> Self {
        let zeros = |map: &TensorMap| {
            map.iter()
                .map(|(k, v)| (k.clone(), v.detach().zeros_like()))
                .collect()
        };
        let mut optimizer = Optimizer {
            kind,
            weight_decay,
            first: zeros(parameters),
            second: zeros(parameters),
        };
        optimizer.second.retain(|name, p| !uses_muon(kind, name, p));
        optimizer
    }

    /// One update of every parameter; `step` counts from 1.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn step(&mut self, parameters: &TensorMap, gradients: &[Tensor], rate: f64, step: u64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for ((name, parameter), gradient) in parameters.iter().zip(gradients) {
            let mut parameter = parameter.shallow_clone();
            let first = self.first.get_mut(name).expect("state for every parameter");
            let (update, rate) = match self.second.get_mut(name) {
                None => (muon(first, gradient), rate),
                Some(second) => {
                    let rate = match self.kind {
                        OptimizerKind::AdamW => rate,
                        OptimizerKind::Muon => rate * MUON_ADAM_RATIO,
                    };
                    (adam(first, second, gradient, step), rate)
                }
            };
            if parameter.dim() > 1 {
                let _ = parameter.f_mul_scalar_(1.0 - rate * self.weight_decay)?;
            }
            let _ = parameter.f_sub_(&(update * rate))?;
        }
        Ok(())
    }

    /// The state by name, for a checkpoint.
    pub fn state(&self) -> TensorMap {
        let named = |prefix: &'static str, map: &TensorMap| -> Vec<(String, Tensor)> {
            let entries = map.iter();
            entries
                .map(|(k, v)| (format!("{prefix}.{k}"), v.shallow_clone()))
                .collect()
        };
        let mut state = named("first", &self.first);
        state.extend(named("second", &self.second));
        state.into_iter().collect()
    }

    /// Restores what [`Optimizer::state`] gave.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_state(&mut self, state: &TensorMap) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for (prefix, map) in [("first", &mut self.first), ("second", &mut self.second)] {
            for (name, tensor) in map.iter_mut() {
                let source = crate::nn::Params::new(state);
                let stored = source
                    .pp(prefix)
                    .get(name, &tensor.size(), crate::nn::Init::Zeros)?;
                tensor.f_copy_(&stored)?;
            }
        }
        Ok(())
    }
}

/// Muon is for hidden matrices; the first and last layers, vectors and the prompt are AdamW's.
fn uses_muon(kind: OptimizerKind, name: &str, parameter: &Tensor) -> bool {
    let outermost = ["encoder.conv_in", "decoder.conv_out", "prompt.embedding"];
    kind == OptimizerKind::Muon && parameter.dim() > 1 && !outermost.iter().any(|n| name.contains(n))
}

fn adam(first: &mut Tensor, second: &mut Tensor, gradient: &Tensor, step: u64) -> Tensor {
    let _ = first.lerp_(gradient, 1.0 - BETA_1);
    let _ = second.lerp_(&gradient.square(), 1.0 - BETA_2);
    let power = step.min(i32::MAX as u64) as i32;
    let (bias_1, bias_2) = (1.0 - BETA_1.powi(power), 1.0 - BETA_2.powi(power));
    (&*first / bias_1) / ((&*second / bias_2).sqrt() + EPS)
}

/// Nesterov momentum, then the nearest (semi-)orthogonal matrix, scaled to the root mean square of Adam's updates.
fn muon(momentum: &mut Tensor, gradient: &Tensor) -> Tensor {
    let _ = momentum.lerp_(gradient, 1.0 - MOMENTUM);
    let nesterov = gradient.lerp(momentum, MOMENTUM);
    let matrix = nesterov.flatten(1, -1);
    let (rows, columns) = matrix.size2().expect("a matrix");
    let scale = (rows.max(columns) as f64).sqrt() * 0.2;
    (orthogonalised(&matrix) * scale).view_as(gradient)
}

/// Five quintic Newton-Schulz steps, which move all singular values close to one.
fn orthogonalised(matrix: &Tensor) -> Tensor {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let (rows, columns) = matrix.size2().expect("a matrix");
    let wide = rows <= columns;
    let mut x = if wide { matrix.shallow_clone() } else { matrix.tr() };
    x = &x / (x.norm() + 1e-7);
    for _ in 0..5 {
        let gram = x.matmul(&x.tr());
        let polynomial = &gram * b + gram.matmul(&gram) * c;
        x = &x * a + polynomial.matmul(&x);
    }
    if wide { x } else { x.tr() }
}

/// Scales gradients so that their joint norm is at most `max_norm`; gives the norm before.
pub fn clip_gradients(gradients: &mut [Tensor], max_norm: f64) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let squares: Vec<Tensor> = gradients.iter().map(|g| g.square().sum(Kind::Float)).collect();
    let norm = Tensor::stack(&squares, 0)
        .sum(Kind::Float)
        .sqrt()
        .double_value(&[]);
    if norm.is_finite() && norm > max_norm {
        for gradient in gradients {
            *gradient = &*gradient * (max_norm / norm);
        }
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn orthogonalised_has_singular_values_near_one() {
        tch::manual_seed(1);
        let matrix = Tensor::randn([8, 24], (Kind::Float, Device::Cpu));
        let gram = orthogonalised(&matrix);
        let gram = gram.matmul(&gram.tr());
        let off = &gram - Tensor::eye(8, (Kind::Float, Device::Cpu));
        assert!(off.abs().max().double_value(&[]) < 0.6);
        assert!((gram.trace().double_value(&[]) / 8.0 - 1.0).abs() < 0.3);
    }

    #[test]
    fn both_optimizers_minimise_a_quadratic() {
        for kind in [OptimizerKind::AdamW, OptimizerKind::Muon] {
            tch::manual_seed(2);
            let target = Tensor::randn([6, 6], (Kind::Float, Device::Cpu));
            let start = target.zeros_like().set_requires_grad(true);
            let parameters = TensorMap::from([("w".to_string(), start)]);
            let mut optimizer = Optimizer::new(kind, 0.0, &parameters);
            let distance = || (&parameters["w"] - &target).square().sum(Kind::Float);
            let before = distance().double_value(&[]);
            for step in 1..=300 {
                let gradients = Tensor::run_backward(&[distance()], &[&parameters["w"]], false, false);
                optimizer
                    .step(&parameters, &gradients, 0.05 * (1.0 - step as f64 / 301.0), step)
                    .unwrap();
            }
            let after = distance().double_value(&[]);
            assert!(after < 0.01 * before, "{kind:?}: {before} to {after}");
        }
    }

    #[test]
    fn clipping_keeps_direction_and_bounds_the_norm() {
        let mut gradients = [Tensor::from_slice(&[3.0f32, 0.0]), Tensor::from_slice(&[4.0f32])];
        assert!((clip_gradients(&mut gradients, 1.0) - 5.0).abs() < 1e-6);
        assert!((clip_gradients(&mut gradients, 1.0) - 1.0).abs() < 1e-6);
        assert!((gradients[0].double_value(&[0]) - 0.6).abs() < 1e-6);
    }
}
