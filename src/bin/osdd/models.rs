//! `osdd models`: what is installed, from where, how large, with which checksum.

use std::fmt::Write;

use anyhow::Result;
use osdd::weights::installed_models;
use serde::Serialize;

use crate::args::ModelsArgs;
use crate::report;

#[derive(Serialize)]
struct Model {
    name: String,
    origin: String,
    parameters: u64,
    bytes: u64,
    gflop_per_256x256: Option<f64>,
    checksum: String,
}

pub(crate) fn run(args: ModelsArgs) -> Result<()> {
    let models: Vec<Model> = installed_models()
        .into_iter()
        .map(|model| Model {
            name: model.name,
            origin: model.origin,
            parameters: model.parameters,
            bytes: model.bytes,
            gflop_per_256x256: model.gflop,
            checksum: model.checksum,
        })
        .collect();
    if args.json {
        return report::write_json("-".as_ref(), &models);
    }
    let width = |heading: &str, cells: &dyn Fn(&Model) -> usize| {
        models
            .iter()
            .map(cells)
            .chain([heading.len()])
            .max()
            .unwrap_or_default()
    };
    let name_width = width("name", &|model| model.name.len());
    let origin_width = width("origin", &|model| model.origin.len());
    let mut table = String::new();
    writeln!(
        table,
        "{:name_width$}  {:origin_width$}  {:>12}  {:>10}  {:>11}  checksum",
        "name", "origin", "parameters", "size", "256x256"
    )?;
    for model in &models {
        writeln!(
            table,
            "{:name_width$}  {:origin_width$}  {:>10.2} M  {:>7.1} MB  {:>11}  {}",
            model.name,
            model.origin,
            model.parameters as f64 / 1e6,
            model.bytes as f64 / 1e6,
            model
                .gflop_per_256x256
                .map_or_else(|| "-".into(), |gflop| format!("{gflop:.2} GFLOP")),
            model.checksum
        )?;
    }
    report::print(&table)
}
