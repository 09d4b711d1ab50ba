//! What was measured, for people.

use std::fmt::Write;

use anyhow::Result;

use super::{ModelReport, Report, quiet};

pub(super) fn of(report: &Report) -> Result<String> {
    let mut text = String::new();
    let hardware = &report.hardware;
    writeln!(
        text,
        "{}, {} cores, {} threads",
        hardware.cpu, hardware.cores, hardware.threads
    )?;
    for gpu in &hardware.gpus {
        let driver = hardware.gpu_driver.as_deref().unwrap_or("unknown");
        writeln!(text, "{gpu}, driver {driver}")?;
    }
    for model in &report.models {
        model_table(&mut text, model, report)?;
    }
    writeln!(
        text,
        "\nratio: the pipeline's to the engine alone; the moving gamma's to the pipeline's"
    )?;
    let summaries = report
        .models
        .iter()
        .flat_map(|model| &model.sizes)
        .flat_map(|size| [&size.engine, &size.pipeline, &size.moving_gamma]);
    let rounds = summaries
        .map(|summary| summary.rounds.as_slice())
        .collect::<Vec<_>>();
    for note in quiet::notes(report.others_share, &rounds) {
        writeln!(text, "{note}")?;
    }
    Ok(text)
}

fn model_table(text: &mut String, model: &ModelReport, report: &Report) -> Result<()> {
    writeln!(text)?;
    match &model.settings {
        Some(settings) => writeln!(
            text,
            "{} on {}, {}, gamma {}, tiles of at most {} px, overlap {} px; median of {} x {} frames",
            model.model,
            settings.device,
            settings.precision,
            report.gamma,
            settings.tile_size,
            settings.tile_overlap,
            report.rounds,
            report.frames
        )?,
        None => writeln!(text, "{}, not measured", model.model)?,
    }
    for size in &model.sizes {
        writeln!(
            text,
            "\n{:<34} {:>9}  {:>7}  {:>12}  {:>6}",
            size.size, "frames/s", "ratio", "peak memory", "lost"
        )?;
        let rows = [
            ("engine alone", &size.engine, String::new()),
            ("pipeline", &size.pipeline, percent(size.pipeline_over_engine)),
            (
                "pipeline, gamma moved every frame",
                &size.moving_gamma,
                percent(size.moving_gamma_over_pipeline),
            ),
        ];
        for (name, summary, ratio) in rows {
            let memory = summary
                .peak_memory_mib
                .map_or("unknown".to_owned(), |mib| format!("{mib} MiB"));
            writeln!(
                text,
                "{name:<34} {:>9.2}  {ratio:>7}  {memory:>12}  {:>6}",
                summary.frames_per_second, summary.frames_lost
            )?;
        }
        if let Some(stages) = &size.engine.stages {
            writeln!(
                text,
                "ms per frame: upload {:.2}, model {:.2}, blend {:.2}, download {:.2}, total {:.2}",
                stages.upload_ms, stages.model_ms, stages.blend_ms, stages.download_ms, stages.total_ms
            )?;
        }
        if let Some(convert_ms) = size.pipeline.convert_ms {
            writeln!(
                text,
                "conversions from I420 and back, beside these: {convert_ms:.2} ms"
            )?;
        }
        if let Some(mib) = size.engine.peak_gpu_memory_mib {
            writeln!(text, "peak memory of tensors on the GPU: {mib} MiB")?;
        }
        if let Some(latency_ms) = size.engine.latency_ms {
            writeln!(
                text,
                "a single frame takes {latency_ms:.2} ms in an engine that has nothing else to do; the times above are of frames that overlap"
            )?;
        }
        let part = &size.model;
        writeln!(
            text,
            "model at {}x{}, ms: encoder {:.2}, UNet {:.2}, decoder {:.2}; a change of gamma {:.2}",
            part.width, part.height, part.encode_ms, part.predict_ms, part.decode_ms, part.gamma_change_ms
        )?;
        writeln!(
            text,
            "GFLOP/s: model {:.0}, {} of its convolutions' limit measured beside it, {:.0}; a 3x3 convolution {:.0}, depthwise {:.0}, a matrix product {:.0}",
            part.gflops,
            percent(part.share_of_limit),
            part.limit_gflops,
            part.convolution_gflops,
            part.depthwise_gflops,
            part.matrix_gflops
        )?;
    }
    for left_out in &model.left_out {
        writeln!(text, "{} left out: {}", left_out.size, left_out.reason)?;
    }
    Ok(())
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", 100.0 * ratio)
}
