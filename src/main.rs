//! The `hawser` binary: a subcommand per service, `dev` for all of them at once, and the operator's
//! commands. It parses, builds, runs, and says how it went; what happens is in the service crates.

mod admin;
mod bind;
mod certificates;
mod cli;
mod control_api;
mod credentials;
mod dev;
mod dial;
mod failure;
mod memory;
mod operate;
mod output;
mod push_api;
mod role;
mod span;

use clap::Parser as _;
use cli::{Cli, Command};
use failure::{Failure, Outcome};
use operate::Desk;
use output::Output;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    memory::small_pages();
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|failure| Failure::unreachable(format!("no runtime: {failure}")))
        .and_then(|runtime| runtime.block_on(run(cli, output)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(output.json),
    }
}

async fn run(cli: Cli, output: Output) -> Outcome {
    let desk = || Desk::open(output, cli.data_dir.clone());
    match cli.command {
        Command::Dev(args) => dev::run(output, &cli.data_dir, args).await,
        Command::Control(args) => role::control(args).await,
        Command::Access(args) => role::access(args).await,
        Command::Router(mut args) => match args.command.take() {
            Some(command) => operate::router::run(&desk()?, command).await,
            None => role::router(args).await,
        },
        Command::Config(command) => role::config(output, command),
        Command::Certificates(command) => certificates::run(output, command),
        Command::Push(command) => operate::push::run(&desk()?, command).await,
        Command::Group(command) => operate::group::run(&desk()?, command).await,
        Command::Inbox(command) => operate::inbox::run(&desk()?, command).await,
        Command::Device(command) => operate::device::run(&desk()?, command).await,
        Command::App(command) => operate::app::run(&mut desk()?, command).await,
        Command::Business(command) => operate::business::run(&mut desk()?, command).await,
        Command::Token(command) => operate::token::run(&desk()?, command).await,
        Command::Node(command) => operate::node::run(&desk()?, command).await,
        Command::SigningKey(command) => operate::signing_key::run(&desk()?, command).await,
        Command::TicketKey(command) => operate::ticket_key::run(&desk()?, command).await,
    }
}
