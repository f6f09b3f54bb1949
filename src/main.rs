//! The kube-proxy binary: a command line becomes an action, an action an exit code.

use std::process::ExitCode;

use kube_proxy::{cli, daemon};

fn main() -> ExitCode {
    let action = match cli::parse(std::env::args_os()) {
        Ok(action) => action,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(usage.exit_code);
        }
    };
    match daemon::act(action) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("kube-proxy: {failure}");
            ExitCode::FAILURE
        }
    }
}
