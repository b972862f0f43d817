//! `hawser certificates ..`: what services show each other, made by one command.

use crate::failure::{Failure, Outcome, chain};
use crate::output::Output;
use clap::Subcommand;
use hawser_chassis::peers::{Issued, Role, issue, look_at};
use hawser_chassis::tls::read_chain;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Commands on certificates between services.
#[derive(Debug, Subcommand)]
pub(crate) enum CertificatesCommand {
    /// Make a certificate for each role, and the CA that signs them unless there is one
    ///
    /// Give each machine ca.pem and the certificate and key of its role, and keep ca.key away from all of
    /// them: who holds it can be any service. Run it again before the certificates end: the CA stays, the
    /// rest is new; services take it up at SIGHUP.
    ///
    /// Example: hawser certificates create --dir ./certificates --days 90
    #[command(verbatim_doc_comment)]
    Create {
        /// Where they are put
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// How long they are good
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Show which roles the certificates of a file are for, and until when
    Show {
        /// PEM file
        file: PathBuf,
    },
}

/// Does the command.
pub(crate) fn run(output: Output, command: CertificatesCommand) -> Outcome {
    match command {
        CertificatesCommand::Create { dir, days } => create(output, &dir, days),
        CertificatesCommand::Show { file } => show(output, &file),
    }
}

fn create(output: Output, folder: &Path, days: u32) -> Outcome {
    let life = Duration::from_hours(u64::from(days) * 24);
    let Issued { ca, ca_is_old, leaves, life: given, .. } =
        issue(folder, life).map_err(|failure| Failure::usage(chain(&failure)))?;
    let row = |(role, certificate, key): &(Role, PathBuf, PathBuf)| {
        json!({
            "role": role.name(),
            "certificate": certificate.display().to_string(),
            "key": key.display().to_string(),
        })
    };
    let rows: Vec<_> = leaves.iter().map(row).collect();
    output.list(&rows, &["role", "certificate", "key"]);
    let which = if ca_is_old { "of before" } else { "new" };
    let good = if given < life {
        format!("{} days, as it is itself", given.as_secs() / 86_400)
    } else {
        format!("{days} days")
    };
    output.note(&format!("signed by {}, {which}; good for {good}", ca.display()));
    Ok(())
}

fn show(output: Output, file: &Path) -> Outcome {
    let chain = read_chain(file).map_err(|failure| Failure::usage(chain(&failure)))?;
    let mut rows = Vec::new();
    for certificate in &chain {
        let shown = look_at(certificate).ok_or_else(|| {
            Failure::usage(format!("{} holds something else than certificates", file.display()))
        })?;
        let roles: Vec<_> = shown.roles.iter().map(|role| role.name()).collect();
        rows.push(json!({
            "roles": roles,
            "not_before_ms": shown.not_before * 1_000,
            "not_after_ms": shown.not_after * 1_000,
        }));
    }
    output.list(&rows, &["roles", "not_before_ms", "not_after_ms"]);
    Ok(())
}
