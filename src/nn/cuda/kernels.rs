//! What runs kernels, and those of `gated.cu` on tensors: how many threads take how much of what.

use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, Once};

use once_cell::sync::Lazy;
use tch::{Device, Kind, Tensor};

use super::driver::{Module, OUT_OF_MEMORY};

const SOURCE: &str = concat!(include_str!("numbers.cu"), include_str!("gated.cu"));

/// Threads of a block in the norms.
const NORM_THREADS: i64 = 128;
/// Rows of a strip of the depthwise convolutions.
const STRIP: i64 = 8;
/// Pairs of channels that a block of the depthwise convolutions takes at most, of 256 threads.
const MOST_PAIRS: i64 = 52;
/// Most threads of a block elsewhere.
const MAX_THREADS: i64 = 256;
/// Blocks to a multiprocessor where each goes on until all is done.
const BLOCKS_EACH: i64 = 8;
/// The same where each leaves sums behind, which somebody has to add.
const ADDING_BLOCKS_EACH: i64 = 2;

/// A kernel by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    ChannelNorm,
    GateDepthwise,
    Gate,
    ChannelNormBackward,
    GateDepthwiseBackward,
    DepthwiseBackward,
    GateBackward,
    ChannelSums,
    GroupScales,
    ScaleShift,
    ScaleShiftSilu,
    TilesOfFrame,
    FrameOfTiles,
}

impl Kernel {
    /// Of the gated block; the last four are there only for gradients.
    const GATED: [Kernel; 7] = [
        Kernel::ChannelNorm,
        Kernel::GateDepthwise,
        Kernel::Gate,
        Kernel::ChannelNormBackward,
        Kernel::GateDepthwiseBackward,
        Kernel::DepthwiseBackward,
        Kernel::GateBackward,
    ];

    pub fn name(self) -> &'static CStr {
        match self {
            Kernel::ChannelNorm => c"channel_norm",
            Kernel::ChannelNormBackward => c"channel_norm_backward",
            Kernel::GateDepthwise => c"gate_depthwise",
            Kernel::GateDepthwiseBackward => c"gate_depthwise_backward",
            Kernel::DepthwiseBackward => c"depthwise_backward",
            Kernel::Gate => c"gate",
            Kernel::GateBackward => c"gate_backward",
            Kernel::ChannelSums => c"channel_sums",
            Kernel::GroupScales => c"group_scales",
            Kernel::ScaleShift => c"scale_shift",
            Kernel::ScaleShiftSilu => c"scale_shift_silu",
            Kernel::TilesOfFrame => c"tiles_of_frame",
            Kernel::FrameOfTiles => c"frame_of_tiles",
        }
    }
}

/// What runs kernels.
pub(super) trait Launch: Send + Sync {
    fn multiprocessors(&self) -> i64;

    /// Runs a kernel after what was queued before; `arguments` point to the values.
    ///
    /// # Errors
    /// What the driver says.
    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        threads: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), String>;
}

/// An argument of a kernel.
pub(super) enum Argument {
    Pointer(*mut c_void),
    Number(i64),
    Size([i32; 3]),
    Share(f32),
}

impl From<&Tensor> for Argument {
    fn from(tensor: &Tensor) -> Self {
        assert!(
            tensor.is_contiguous(),
            "kernels take tensors without gaps: {tensor:?}"
        );
        let address = tensor.data_ptr() as usize;
        assert!(
            address.is_multiple_of(super::gated::ALIGNMENT),
            "kernels cannot read at {address:#x}"
        );
        Argument::Pointer(tensor.data_ptr())
    }
}

impl From<Option<&Tensor>> for Argument {
    fn from(tensor: Option<&Tensor>) -> Self {
        tensor.map_or(Argument::Pointer(std::ptr::null_mut()), Argument::from)
    }
}

/// Batch, height and width of maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub [i64; 3]);

impl Size {
    fn strips(self) -> i64 {
        let Size([batch, height, width]) = self;
        batch * width * (height + STRIP - 1).div_euclid(STRIP)
    }
}

impl From<Size> for Argument {
    fn from(size: Size) -> Self {
        Argument::Size(size.0.map(|side| side as i32))
    }
}

/// The kernels for one width and kind. Maps are `[pixels, width]` or `[pixels, 2 * width]`, sums over pixels float32.
pub(super) struct Kernels {
    width: i64,
    /// Threads to a pixel in the norms.
    group: i64,
    launcher: Box<dyn Launch>,
    multiprocessors: i64,
}

/// What a norm made.
pub(super) struct Normed {
    pub normed: Tensor,
    /// The input plus two vectors, where that was asked for.
    pub raised: Option<Tensor>,
}

impl Kernels {
    /// The kernels for maps of this kind and width where they are; `None` where libtorch has to do. A first call compiles.
    pub fn of(device: Device, kind: Kind, width: i64, eps: f64, backward: bool) -> Option<&'static Kernels> {
        type Made = HashMap<(usize, bool, i64, u64, bool), Option<&'static Kernels>>;
        static MADE: Lazy<Mutex<Made>> = Lazy::new(Mutex::default);
        let Device::Cuda(index) = device else {
            return None;
        };
        let bf16 = match kind {
            Kind::BFloat16 => true,
            Kind::Float => false,
            _ => return None,
        };
        if width % 8 != 0 || width / 2 > MAX_THREADS {
            return None;
        }
        let mut made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (index, bf16, width, eps.to_bits(), backward);
        if let Some(kernels) = made.get(&key) {
            return *kernels;
        }
        let defines = Self::defines(width, eps, bf16, backward);
        let Ok(module) = compiled(index, SOURCE, &defines, &Kernel::GATED) else {
            // There may be memory the next time.
            return None;
        };
        let kernels =
            module.map(|module| -> &Kernels { Box::leak(Box::new(Kernels::new(width, Box::new(module)))) });
        made.insert(key, kernels);
        kernels
    }

    pub fn new(width: i64, launcher: Box<dyn Launch>) -> Self {
        Kernels {
            width,
            group: group(width),
            multiprocessors: launcher.multiprocessors(),
            launcher,
        }
    }

    /// What the source is compiled with.
    pub fn defines(width: i64, eps: f64, bf16: bool, backward: bool) -> Vec<String> {
        vec![
            format!("-DWIDTH={width}"),
            format!("-DEPS={eps:e}f"),
            format!("-DBF16={}", i32::from(bf16)),
            format!("-DBACKWARD={}", i32::from(backward)),
            format!("-DGROUP={}", group(width)),
            format!("-DSTRIP={STRIP}"),
            format!("-DCHUNKS={}", chunks(width)),
        ]
    }

    pub fn width(&self) -> i64 {
        self.width
    }

    /// `norm(x - less) * weight + bias`, and `x` plus both of `more`.
    pub fn norm(
        &self,
        x: &Tensor,
        less: Option<&Tensor>,
        weight: &Tensor,
        bias: &Tensor,
        more: Option<[&Tensor; 2]>,
    ) -> Normed {
        let pixels = x.size()[0];
        let (normed, raised) = (x.empty_like(), more.map(|_| x.empty_like()));
        let blocks = self.blocks(pixels, NORM_THREADS / self.group, BLOCKS_EACH * 2);
        self.launch(
            Kernel::ChannelNorm,
            blocks,
            NORM_THREADS,
            [
                x.into(),
                less.into(),
                weight.into(),
                bias.into(),
                (&normed).into(),
                more.map(|more| more[0]).into(),
                more.map(|more| more[1]).into(),
                raised.as_ref().into(),
                Argument::Number(pixels),
            ],
        );
        Normed { normed, raised }
    }

    /// The gradient by `x` of `norm(x - less)`, of `dy` by what it gave, plus `past`; and the sums over pixels that are the
    /// gradients of weight and bias, and that of `past`.
    pub fn norm_backward(
        &self,
        x: &Tensor,
        less: Option<&Tensor>,
        weight: &Tensor,
        dy: &Tensor,
        past: &Tensor,
    ) -> (Tensor, [Tensor; 3]) {
        let pixels = x.size()[0];
        let dx = x.empty_like();
        // Some pixels to each group, so that the sums are not more than the maps.
        let groups = NORM_THREADS / self.group;
        let blocks = self.blocks(pixels, groups * 8, ADDING_BLOCKS_EACH * 2);
        let sums = self.sums(x, blocks * groups, 3 * self.width);
        self.launch(
            Kernel::ChannelNormBackward,
            blocks,
            NORM_THREADS,
            [
                x.into(),
                less.into(),
                weight.into(),
                dy.into(),
                past.into(),
                (&dx).into(),
                (&sums).into(),
                Argument::Number(pixels),
            ],
        );
        let sums = added(&sums);
        (dx, [0, 1, 2].map(|i| sums.narrow(0, i * self.width, self.width)))
    }

    /// `a * b` where `[a, b]` is the depthwise convolution of `h` by `weight` `[2 * width * 9]`, plus `bias`.
    pub fn gate_depthwise(&self, h: &Tensor, weight: &Tensor, bias: &Tensor, size: Size) -> Tensor {
        let gated = self.empty(h, 1);
        let (threads, walkers) = self.walkers();
        self.launch(
            Kernel::GateDepthwise,
            self.blocks_of_chunks(size.strips(), walkers, BLOCKS_EACH),
            threads,
            [h.into(), weight.into(), bias.into(), (&gated).into(), size.into()],
        );
        gated
    }

    /// Gradients of what [`Kernels::gate_depthwise`] got, of `dg` by what it gave: of `h`, and its sum over pixels; of weights and
    /// bias, `[2 * width, 10]`, the bias last.
    pub fn gate_depthwise_backward(
        &self,
        h: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        dg: &Tensor,
        size: Size,
    ) -> (Tensor, Tensor, Tensor) {
        let (d, dh) = (h.empty_like(), h.empty_like());
        let (threads, walkers) = self.walkers();
        // Some strips to each, for the same reason as in the norms.
        let blocks = self.blocks_of_chunks(size.strips(), walkers * 4, ADDING_BLOCKS_EACH);
        let rows = blocks / chunks(self.width) * walkers;
        let of_layer = self.sums(h, rows, 20 * self.width);
        self.launch(
            Kernel::GateDepthwiseBackward,
            blocks,
            threads,
            [
                h.into(),
                weight.into(),
                bias.into(),
                dg.into(),
                (&d).into(),
                (&of_layer).into(),
                size.into(),
            ],
        );
        let of_input = self.sums(h, rows, 2 * self.width);
        self.launch(
            Kernel::DepthwiseBackward,
            blocks,
            threads,
            [
                (&d).into(),
                weight.into(),
                (&dh).into(),
                (&of_input).into(),
                size.into(),
            ],
        );
        let of_layer = added(&of_layer).view([2 * self.width, 10]);
        (dh, added(&of_input), of_layer)
    }

    /// `a * b` where `[a, b]` is `p`.
    pub fn gate(&self, p: &Tensor) -> Tensor {
        let (pixels, gated) = (p.size()[0], self.empty(p, 1));
        let (threads, at_once) = self.gates();
        let blocks = self.blocks(pixels, at_once, BLOCKS_EACH);
        self.launch(
            Kernel::Gate,
            blocks,
            threads,
            [p.into(), (&gated).into(), Argument::Number(pixels)],
        );
        gated
    }

    /// The gradient of `p`, of `dg` by what [`Kernels::gate`] gave, and its sum over pixels.
    pub fn gate_backward(&self, p: &Tensor, dg: &Tensor) -> (Tensor, Tensor) {
        let (pixels, dp) = (p.size()[0], p.empty_like());
        let (threads, at_once) = self.gates();
        let blocks = self.blocks(pixels, at_once * 8, ADDING_BLOCKS_EACH * 2);
        let sums = self.sums(p, blocks * at_once, 2 * self.width);
        self.launch(
            Kernel::GateBackward,
            blocks,
            threads,
            [
                p.into(),
                dg.into(),
                (&dp).into(),
                (&sums).into(),
                Argument::Number(pixels),
            ],
        );
        (dp, added(&sums))
    }

    /// Threads of a block of the depthwise kernels, and how many strips it takes at a time.
    fn walkers(&self) -> (i64, i64) {
        let pairs = self.width / 2 / chunks(self.width);
        let walkers = MAX_THREADS / pairs;
        (pairs * walkers, walkers)
    }

    /// Threads of a block of the gates, and how many pixels it takes at a time.
    fn gates(&self) -> (i64, i64) {
        let eighths = self.width / 8;
        let at_once = MAX_THREADS / eighths;
        (eighths * at_once, at_once)
    }

    fn blocks(&self, work: i64, of_block: i64, each: i64) -> i64 {
        let needed = (work + of_block - 1).div_euclid(of_block);
        needed.clamp(1, self.multiprocessors * each)
    }

    /// As [`Kernels::blocks`], for each of the chunks of channels.
    fn blocks_of_chunks(&self, work: i64, of_block: i64, each: i64) -> i64 {
        let chunks = chunks(self.width);
        let needed = (work + of_block - 1).div_euclid(of_block);
        needed.clamp(1, (self.multiprocessors * each / chunks).max(1)) * chunks
    }

    fn sums(&self, like: &Tensor, rows: i64, columns: i64) -> Tensor {
        Tensor::empty([rows, columns], (Kind::Float, like.device()))
    }

    /// Maps of this many times the width, for as many pixels.
    fn empty(&self, like: &Tensor, times: i64) -> Tensor {
        Tensor::empty([like.size()[0], times * self.width], (like.kind(), like.device()))
    }

    fn launch<const N: usize>(&self, kernel: Kernel, blocks: i64, threads: i64, arguments: [Argument; N]) {
        launch(&*self.launcher, kernel, blocks, threads, arguments);
    }
}

/// Compiles a source; `None`, with a warning the first time, where that cannot be done.
///
/// # Errors
/// There is no memory at present.
pub(super) fn compiled(
    index: usize,
    source: &str,
    defines: &[String],
    kernels: &[Kernel],
) -> Result<Option<Module>, String> {
    match Module::compile(index, source, defines, kernels) {
        Ok(module) => Ok(Some(module)),
        Err(reason) if reason.contains(OUT_OF_MEMORY) => Err(reason),
        Err(reason) => {
            static ONCE: Once = Once::new();
            ONCE.call_once(|| {
                tracing::warn!("no kernels of our own, libtorch's slower layers serve: {reason}");
            });
            Ok(None)
        }
    }
}

/// Runs a kernel. A failure is a panic, as libtorch's own are here; the engine turns both into errors.
pub(super) fn launch<const N: usize>(
    launcher: &dyn Launch,
    kernel: Kernel,
    blocks: i64,
    threads: i64,
    mut arguments: [Argument; N],
) {
    let mut pointers = arguments.each_mut().map(|argument| match argument {
        Argument::Pointer(pointer) => (&raw mut *pointer).cast::<c_void>(),
        Argument::Number(pixels) => (&raw mut *pixels).cast(),
        Argument::Size(size) => (&raw mut *size).cast(),
        Argument::Share(share) => (&raw mut *share).cast(),
    });
    let launched = launcher.launch(kernel, blocks as u32, threads as u32, &mut pointers);
    launched.unwrap_or_else(|reason| panic!("{reason}"));
}

/// Threads that share a pixel: as many as it has eighths of channels, in powers of two, at most a warp.
fn group(width: i64) -> i64 {
    let eighths = (width / 8) as u64;
    eighths.next_power_of_two().min(32) as i64
}

/// Parts that the depthwise convolutions cut the channels into: equal ones, of at most [`MOST_PAIRS`] pairs where that goes.
fn chunks(width: i64) -> i64 {
    let pairs = width / 2;
    let equal = (1..=pairs).filter(|parts| pairs % parts == 0);
    let mut small = equal.filter(|parts| pairs / parts <= MOST_PAIRS);
    // A prime number of pairs is not cut into single ones.
    small.next().filter(|parts| pairs / parts >= 8).unwrap_or(1)
}

/// The sum of the rows.
fn added(rows: &Tensor) -> Tensor {
    rows.sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_has_whole_blocks() {
        for width in (8..=2 * MAX_THREADS).step_by(8) {
            let pairs = width / 2;
            let parts = chunks(width);
            assert_eq!(pairs % parts, 0, "{width}");
            let each = pairs / parts;
            assert!((1..=MAX_THREADS).contains(&each), "{width}: {each} pairs");
            assert_eq!(NORM_THREADS % group(width), 0, "{width}");
            assert!(width / 8 <= MAX_THREADS, "{width}");
        }
        assert_eq!([80, 208, 272, 400].map(chunks), [1, 2, 4, 4]);
        assert_eq!([8, 32, 80, 208, 400].map(group), [1, 4, 16, 32, 32]);
    }
}
