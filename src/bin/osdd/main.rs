//! `osdd`, the command-line tool: raw arguments become a validated plan, the plan becomes work, and exit codes are
//! decided here and nowhere else.

mod args;
mod bench;
mod deblur;
mod eval;
mod frames;
mod hardware;
mod images;
mod import;
mod interrupt;
mod metrics_weights;
mod models;
mod output;
mod picture;
mod plan;
mod progress;
mod report;
mod synth;
mod tiff;
mod train;
mod video;

use std::io::IsTerminal;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// The arguments contradict each other or the files they name: exit code 2, as for what clap itself rejects.
#[derive(Debug)]
pub(crate) struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    report::set_quiet(cli.quiet);
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("OSDD_LOG").unwrap_or_else(|_| EnvFilter::new("warn")))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    let result = interrupt::install().and_then(|()| run(cli.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            report::error(&error);
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Deblur(args) => deblur::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Models(args) => models::run(args),
        Command::Synth(args) => synth::run(args),
        Command::Train(args) => train::run(args),
        Command::Import(args) => import::run(args),
    }
}
