//! Interlaced frames for a model that knows only whole pictures: the two fields one above the other.
//!
//! The lines of an interlaced frame belong to two moments. Woven together they look like a comb, which no
//! model should see.

use osdd::Result;
use osdd::frame::{Frame, reserve};

/// Lines between the fields, half of them mirrored from either, so that the model sees neither at the other's
/// edge.
const GAP: usize = 64;

/// Even lines, the gap, odd lines, in the memory of `recycled`: a frame of [`GAP`] lines more.
///
/// # Errors
///
/// Too little memory.
pub(crate) fn separate(frame: &Frame, mut recycled: Vec<u8>) -> Result<Frame> {
    let stride = frame.stride();
    let (even, odd) = (frame.height.div_ceil(2), frame.height / 2);
    recycled.clear();
    reserve(&mut recycled, (frame.height + GAP) * stride)?;
    let lines = (0..even)
        .chain((0..GAP / 2).map(|line| even.saturating_sub(2 + line)))
        .map(|line| 2 * line)
        .chain(
            (0..GAP / 2)
                .rev()
                .map(|line| (line + 1).min(odd.saturating_sub(1)))
                .chain(0..odd)
                .map(|line| 2 * line + 1),
        );
    for line in lines {
        recycled.extend_from_slice(&frame.data[line * stride..][..stride]);
    }
    Ok(Frame {
        width: frame.width,
        height: frame.height + GAP,
        format: frame.format,
        data: recycled,
    })
}

/// Undoes [`separate`].
///
/// # Errors
///
/// Too little memory.
pub(crate) fn weave(frame: &Frame, mut recycled: Vec<u8>) -> Result<Frame> {
    let stride = frame.stride();
    let height = frame.height - GAP;
    let first_odd = height.div_ceil(2) + GAP;
    recycled.clear();
    reserve(&mut recycled, height * stride)?;
    for line in 0..height {
        let from = if line % 2 == 0 {
            line / 2
        } else {
            first_odd + line / 2
        };
        recycled.extend_from_slice(&frame.data[from * stride..][..stride]);
    }
    Ok(Frame {
        width: frame.width,
        height,
        format: frame.format,
        data: recycled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use osdd::frame::PixelFormat;

    /// A frame whose lines hold their number.
    fn numbered(height: usize) -> Frame {
        let mut frame = Frame::new(2, height, PixelFormat::Rgb8);
        let stride = frame.stride();
        for (line, row) in (0..).zip(frame.data.chunks_mut(stride)) {
            row.fill(line);
        }
        frame
    }

    #[test]
    fn fields_lie_above_each_other_with_their_mirrors_between() {
        let fields = separate(&numbered(200), Vec::new()).expect("memory");
        assert_eq!(fields.height, 200 + GAP);
        let lines = fields.data.chunks(6).map(|row| row[0]).collect::<Vec<_>>();
        assert_eq!(lines[..3], [0, 2, 4]);
        assert_eq!(lines[98..103], [196, 198, 196, 194, 192]);
        assert_eq!(lines[161..167], [5 + 2, 5, 3, 1, 3, 5]);
        assert_eq!(lines.last(), Some(&199));
    }

    #[test]
    fn weaving_undoes_separating() {
        for height in [2, 3, 5, 48, 101] {
            let frame = numbered(height);
            let fields = separate(&frame, vec![7; 3]).expect("memory");
            assert_eq!(fields.data.len(), fields.height * fields.stride());
            assert_eq!(weave(&fields, Vec::new()).expect("memory"), frame);
        }
    }
}
