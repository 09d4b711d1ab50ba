//! The library without GStreamer: deblurs one picture.
//!
//! ```text
//! cargo run --release --example offline -- blurry.jpg sharp.png [GAMMA]
//! ```

use anyhow::{Context, Result};
use osdd::engine::{Engine, EngineConfig};
use osdd::frame::{Frame, PixelFormat};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().context("usage: offline INPUT OUTPUT [GAMMA]")?;
    let output = arguments.next().context("usage: offline INPUT OUTPUT [GAMMA]")?;
    let gamma = arguments
        .next()
        .map_or(Ok(0.7), |text| text.parse())
        .context("gamma is a number from 0 to 1")?;

    let picture = image::open(&input)
        .with_context(|| format!("cannot read {input}"))?
        .into_rgb8();
    let (width, height) = picture.dimensions();
    let frame = Frame::from_data(
        width as usize,
        height as usize,
        PixelFormat::Rgb8,
        picture.into_raw(),
    )?;

    // One picture needs no frames in flight beside it; tiles bound the memory whatever its size.
    let engine = Engine::new(EngineConfig {
        gamma,
        depth: 1,
        ..EngineConfig::default()
    })?;
    engine.send(frame).map_err(osdd::Error::from)?;
    let result = engine.receive()?.context("the engine gave no frame back")?;

    let (frame, times) = (result.frame, result.times);
    image::save_buffer(&output, &frame.data, width, height, image::ColorType::Rgb8)
        .with_context(|| format!("cannot write {output}"))?;
    println!(
        "{output}: {width}x{height}, gamma {}, {:.2} s",
        result.gamma,
        times.total.as_secs_f64()
    );
    Ok(())
}
