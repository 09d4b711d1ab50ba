//! Optimizers on one flat buffer of parameters; a checkpoint can carry their whole state.

use tch::{Kind, Tensor};

use super::OptimizerKind;
use super::flat::{Flat, Slot};
use crate::Result;
use crate::nn::TensorMap;

const BETA_1: f64 = 0.9;
const EPS: f64 = 1e-8;
const MOMENTUM: f64 = 0.95;
/// AdamW's share of the learning rate for what Muon leaves to it.
const MUON_ADAM_RATIO: f64 = 0.05;

/// Parameters in one buffer, with AdamW or Muon over them.
pub(super) struct Optimizer {
    kind: OptimizerKind,
    /// Arithmetic in which matrices are orthogonalised.
    precision: Kind,
    weight_decay: f64,
    parameters: Flat,
    /// First moments, or Muon's momentum.
    first: Flat,
    /// Second moments; unused where Muon is.
    second: Flat,
    /// Matrices of equal size lie together and are orthogonalised together: offset, count, rows, columns.
    groups: Vec<(i64, i64, i64, i64)>,
    /// Muon's part of the buffer comes first, then AdamW's weights, then its vectors, which do not decay.
    muon_end: i64,
    decay_end: i64,
    /// Updates so far.
    steps: u64,
}

impl Optimizer {
    /// Takes copies of the parameters; [`Optimizer::parameters`] has what is trained from now on. Parameters and state are
    /// float32; of `precision` are Muon's matrix products, whose result is an approximation anyway.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(
        kind: OptimizerKind,
        precision: Kind,
        weight_decay: f64,
        parameters: &TensorMap,
    ) -> Result<Self> {
        let order = |name: &str, shape: &[i64]| match shape {
            [rows, rest @ ..] if uses_muon(kind, name, shape.len()) => (0, *rows, rest.iter().product()),
            _ if shape.len() > 1 => (1, 0, 0),
            // Odd lengths last: what lies behind them is at odd addresses, which matrix products and kernels read slowly.
            _ => (2, shape.iter().product::<i64>() % 16, 0),
        };
        let parameters = Flat::new(parameters, order)?;
        let end = |class: i64| {
            let within = |slot: &&Slot| order(&slot.name, &slot.shape).0 <= class;
            parameters
                .slots()
                .iter()
                .filter(within)
                .map(|slot| slot.length)
                .sum()
        };
        let mut groups: Vec<(i64, i64, i64, i64)> = Vec::new();
        for slot in parameters
            .slots()
            .iter()
            .filter(|s| uses_muon(kind, &s.name, s.shape.len()))
        {
            let (rows, columns) = slot.matrix();
            match groups.last_mut() {
                Some((_, count, r, c)) if (*r, *c) == (rows, columns) => *count += 1,
                _ => groups.push((slot.offset, 1, rows, columns)),
            }
        }
        Ok(Optimizer {
            kind,
            precision,
            weight_decay,
            first: parameters.zeros_like(),
            second: parameters.zeros_like(),
            groups,
            muon_end: end(0),
            decay_end: end(1),
            steps: 0,
            parameters,
        })
    }

    /// What is trained.
    pub fn parameters(&self) -> &Flat {
        &self.parameters
    }

    /// Takes the values of tensors of the same names as parameters.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_parameters(&mut self, tensors: &TensorMap) -> Result<()> {
        self.parameters.load(tensors)
    }

    /// One update of every parameter by a flat gradient.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn step(&mut self, gradient: &Tensor, rate: f64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        self.steps += 1;
        let adam_rate = match self.kind {
            OptimizerKind::AdamW => rate,
            OptimizerKind::Muon => rate * MUON_ADAM_RATIO,
        };
        let buffer = self.parameters.buffer();
        let (muon_end, decay_end, end) = (self.muon_end, self.decay_end, buffer.numel() as i64);
        if muon_end > 0 {
            let gradient = gradient.narrow(0, 0, muon_end);
            let mut momentum = self.first.buffer().narrow(0, 0, muon_end);
            let _ = momentum.f_lerp_(&gradient, 1.0 - MOMENTUM)?;
            let nesterov = gradient.lerp(&momentum, MOMENTUM);
            let mut part = buffer.narrow(0, 0, muon_end);
            let _ = part.f_mul_scalar_(1.0 - rate * self.weight_decay)?;
            let _ = part.f_sub_(&(self.orthogonal_update(&nesterov) * rate))?;
        }
        if end > muon_end {
            let length = end - muon_end;
            let gradient = gradient.narrow(0, muon_end, length);
            let mut first = self.first.buffer().narrow(0, muon_end, length);
            let mut second = self.second.buffer().narrow(0, muon_end, length);
            let mut decaying = buffer.narrow(0, muon_end, decay_end - muon_end);
            let _ = decaying.f_mul_scalar_(1.0 - adam_rate * self.weight_decay)?;
            let update = adam(&mut first, &mut second, &gradient, self.beta_2(), self.steps) * adam_rate;
            let _ = buffer.narrow(0, muon_end, length).f_sub_(&update)?;
        }
        Ok(())
    }

    /// PyTorch's default for AdamW alone; beside Muon a shorter memory keeps step with it.
    fn beta_2(&self) -> f64 {
        match self.kind {
            OptimizerKind::AdamW => 0.999,
            OptimizerKind::Muon => 0.99,
        }
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Every matrix moved to the nearest (semi-)orthogonal one, scaled to the root mean square of Adam's updates.
    fn orthogonal_update(&self, nesterov: &Tensor) -> Tensor {
        let groups = self.groups.iter().map(|&(offset, count, rows, columns)| {
            let matrices = nesterov.narrow(0, offset, count * rows * columns);
            let scale = (rows.max(columns) as f64).sqrt() * 0.2;
            let update = orthogonalised(&matrices.view([count, rows, columns]), self.precision);
            (update * scale).reshape([-1])
        });
        Tensor::cat(&groups.collect::<Vec<_>>(), 0)
    }

    /// The state by name, for a checkpoint.
    pub fn state(&self) -> TensorMap {
        let second = self.second.views().into_iter();
        let second = second.filter(|(name, t)| !uses_muon(self.kind, name, t.dim()));
        let named = |prefix: &'static str| move |(name, t): (String, Tensor)| (format!("{prefix}.{name}"), t);
        let first = self.first.views().into_iter().map(named("first"));
        first.chain(second.map(named("second"))).collect()
    }

    /// Restores what [`Optimizer::state`] gave after that many updates.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_state(&mut self, state: &TensorMap, steps: u64) -> Result<()> {
        self.steps = steps;
        let part = |prefix: &str| -> TensorMap {
            let named = state
                .iter()
                .filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t)));
            named.map(|(name, t)| (name, t.shallow_clone())).collect()
        };
        self.first.load(&part("first."))?;
        let mut second = part("second.");
        // Muon has no second moments; the buffer's zeros there stay.
        for (name, zeros) in self.second.views() {
            if uses_muon(self.kind, &name, zeros.dim()) {
                second.insert(name, zeros);
            }
        }
        self.second.load(&second)
    }
}

/// Muon is for hidden matrices; the first and last layers, vectors and the prompt are AdamW's.
fn uses_muon(kind: OptimizerKind, name: &str, dimensions: usize) -> bool {
    let outermost = ["encoder.conv_in", "decoder.conv_out", "prompt.embedding"];
    kind == OptimizerKind::Muon && dimensions > 1 && !outermost.iter().any(|n| name.contains(n))
}

fn adam(first: &mut Tensor, second: &mut Tensor, gradient: &Tensor, beta_2: f64, step: u64) -> Tensor {
    let _ = first.lerp_(gradient, 1.0 - BETA_1);
    let _ = second.lerp_(&gradient.square(), 1.0 - beta_2);
    let power = step.min(i32::MAX as u64) as i32;
    let (bias_1, bias_2) = (1.0 - BETA_1.powi(power), 1.0 - beta_2.powi(power));
    (&*first / bias_1) / ((&*second / bias_2).sqrt() + EPS)
}

/// Five quintic Newton-Schulz steps, which move all singular values of each of `[N, rows, columns]` close to one.
fn orthogonalised(matrices: &Tensor, precision: Kind) -> Tensor {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    let (_, rows, columns) = matrices.size3().expect("a batch of matrices");
    let wide = rows <= columns;
    let mut x = if wide {
        matrices.shallow_clone()
    } else {
        matrices.transpose(1, 2)
    };
    let squares = x
        .square()
        .sum_dim_intlist([1i64, 2].as_slice(), true, Kind::Float);
    x = (&x / (squares.sqrt() + 1e-7)).to_kind(precision);
    for _ in 0..5 {
        let gram = x.bmm(&x.transpose(1, 2));
        let polynomial = gram.baddbmm(&gram, &gram, b, c);
        x = x.baddbmm(&polynomial, &x, a, 1.0);
    }
    let x = x.to_kind(Kind::Float);
    if wide { x } else { x.transpose(1, 2) }
}

/// Scales a flat gradient so that its norm is at most `max_norm`; gives the norm before, on the device: reading it would
/// wait for all that is queued there.
pub(super) fn clip(gradient: &mut Tensor, max_norm: f64) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    let norm = gradient.norm();
    let scale = (max_norm * (&norm + 1e-12).reciprocal()).clamp_max(1.0);
    let _ = gradient.g_mul_(&scale);
    norm
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);

    #[test]
    fn orthogonalised_has_singular_values_near_one() {
        tch::manual_seed(1);
        let cases = [
            ([3, 8, 24], Kind::Float),
            ([2, 24, 8], Kind::Float),
            ([2, 24, 8], Kind::BFloat16),
        ];
        for (shape, precision) in cases {
            let x = orthogonalised(&Tensor::randn(shape, OPTIONS), precision);
            assert_eq!(x.size(), shape);
            let gram = if shape[1] < shape[2] {
                x.bmm(&x.transpose(1, 2))
            } else {
                x.transpose(1, 2).bmm(&x)
            };
            let off = &gram - Tensor::eye(8, OPTIONS);
            assert!(off.abs().max().double_value(&[]) < 0.6);
        }
    }

    #[test]
    fn matrices_of_one_size_do_not_disturb_each_other() {
        tch::manual_seed(4);
        let matrices = Tensor::randn([3, 6, 10], OPTIONS);
        let together = orthogonalised(&matrices, Kind::Float);
        for i in 0..3 {
            let alone = orthogonalised(&(matrices.narrow(0, i, 1) * 100.0), Kind::Float);
            assert!((together.narrow(0, i, 1) - alone).abs().max().double_value(&[]) < 1e-4);
        }
    }

    #[test]
    fn both_optimizers_minimise_a_quadratic_and_resume_in_the_middle() {
        for kind in [OptimizerKind::AdamW, OptimizerKind::Muon] {
            tch::manual_seed(2);
            let target = TensorMap::from([
                ("a.weight".to_owned(), Tensor::randn([6, 6], OPTIONS)),
                ("b.weight".to_owned(), Tensor::randn([4, 2, 3, 3], OPTIONS)),
                ("c.bias".to_owned(), Tensor::randn([5], OPTIONS)),
            ]);
            let zeros: TensorMap = target
                .iter()
                .map(|(name, t)| (name.clone(), t.zeros_like()))
                .collect();
            let mut optimizer = Optimizer::new(kind, Kind::Float, 0.0, &zeros).unwrap();
            let goal = |o: &Optimizer| {
                let in_order: Vec<Tensor> = o
                    .parameters()
                    .slots()
                    .iter()
                    .map(|s| target[&s.name].copy())
                    .collect();
                Flat::gather(&in_order)
            };
            let distance = |o: &Optimizer| (o.parameters().buffer() - goal(o)).square().sum(Kind::Float);
            let before = distance(&optimizer).double_value(&[]);
            for step in 1..=300 {
                if step == 150 {
                    let (state, values) = (optimizer.state(), optimizer.parameters().copy().views());
                    optimizer = Optimizer::new(kind, Kind::Float, 0.0, &values).unwrap();
                    optimizer.load_state(&state, step - 1).unwrap();
                }
                let gradient = (optimizer.parameters().buffer() - goal(&optimizer)) * 2.0;
                let rate = match kind {
                    OptimizerKind::AdamW => 0.05,
                    // AdamW gets a twentieth of it.
                    OptimizerKind::Muon => 0.3,
                };
                optimizer
                    .step(&gradient, rate * (1.0 - step as f64 / 301.0))
                    .unwrap();
            }
            let after = distance(&optimizer).double_value(&[]);
            assert!(after < 0.02 * before, "{kind:?}: {before} to {after}");
        }
    }

    #[test]
    fn weights_decay_and_vectors_do_not() {
        for kind in [OptimizerKind::AdamW, OptimizerKind::Muon] {
            let ones = TensorMap::from([
                ("a.weight".to_owned(), Tensor::ones([4, 4], OPTIONS)),
                ("encoder.conv_in.weight".to_owned(), Tensor::ones([4, 4], OPTIONS)),
                ("c.bias".to_owned(), Tensor::ones([4], OPTIONS)),
            ]);
            let mut optimizer = Optimizer::new(kind, Kind::Float, 0.5, &ones).unwrap();
            let still = optimizer.parameters().buffer().zeros_like();
            optimizer.step(&still, 0.1).unwrap();
            let views = optimizer.parameters().views();
            let mean = |name: &str| views[name].mean(Kind::Double).double_value(&[]);
            assert!((mean("a.weight") - 0.95).abs() < 1e-6 && mean("encoder.conv_in.weight") < 1.0);
            assert_eq!(mean("c.bias"), 1.0);
        }
    }

    #[test]
    fn clipping_keeps_direction_and_bounds_the_norm() {
        let mut gradient = Tensor::from_slice(&[3.0f32, 0.0, 4.0]);
        let mut norm = |max| clip(&mut gradient, max).double_value(&[]);
        assert!((norm(10.0) - 5.0).abs() < 1e-6);
        assert!((norm(1.0) - 5.0).abs() < 1e-6);
        assert!((norm(1.0) - 1.0).abs() < 1e-6);
        assert!((gradient.double_value(&[0]) - 0.6).abs() < 1e-6);
    }
}
