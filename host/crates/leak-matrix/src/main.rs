//! `cargo xtask leak-matrix`: plays the matrix, prints it, and fails if anything is left or ends wrongly.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a terminal: its output is what it is for"
)]

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use leak_matrix::{Cell, play_all};

/// Ends builds in every way at every call and counts what is left.
#[derive(Parser)]
#[command(
    name = "cargo xtask leak-matrix",
    bin_name = "cargo xtask leak-matrix",
    max_term_width = 100
)]
struct Cli {
    /// Only cells whose name, `RELEASE/CALL/MOMENT/FAULT`, holds this; given more than once, all of them
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Write the outcome of every cell as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the tables as a page
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Play nothing; name the cells
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut cells = Cell::all();
    cells.retain(|cell| cell.is_meant_by(&cli.only));
    if cli.list {
        cells
            .iter()
            .filter(|cell| cell.absent().is_none())
            .for_each(|cell| println!("{cell}"));
        return ExitCode::SUCCESS;
    }
    let total = cells.iter().filter(|cell| cell.absent().is_none()).count();
    if total == 0 {
        eprintln!("error: no cell is named like that; `--list` names them");
        return ExitCode::from(2);
    }
    let mut ended = 0;
    let is_terminal = std::io::stderr().is_terminal();
    let matrix = play_all(cells, |outcome| {
        ended += 1;
        if is_terminal {
            eprint!("\r{ended} of {total}");
        } else if ended % 100 == 0 {
            eprintln!("{ended} of {total}");
        }
        if let Ok(judged) = &outcome.judged
            && !judged.problems.is_empty()
        {
            eprintln!("\rwrong: {}: {}", outcome.cell, judged.problems.join("; "));
        }
    })
    .await;
    if is_terminal {
        eprintln!();
    }
    print!("{}", matrix.text());
    for (file, text) in [(cli.json, matrix.json()), (cli.markdown, matrix.markdown())] {
        if let Some(file) = file
            && let Err(error) = std::fs::write(&file, text)
        {
            eprintln!("error: cannot write `{}`: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    if matrix.totals().wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
