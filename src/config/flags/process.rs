//! Flags about the process: what to do, its servers, its logs; and those accepted without effect.
//! Tests: `config::tests`.

use super::{Flag, Given, boolean, int32, text};
use crate::config::errand::VersionForm;
use crate::config::forms::{self, GoDuration};
use crate::config::settings::KernelChoice;
use crate::config::wire::{FlushFrequency, OutputRouting, Quantity, VmoduleItem};
use crate::sync::examine::Extent;

pub(super) const ACTIONS: &[Flag] = &[
    Flag::switch(
        "cleanup",
        "Remove every rule, set, virtual server and device this proxy ever made, in any mode, then exit; nothing foreign is touched",
        |g, v| set(&mut g.errand.cleanup, v),
    )
    .beside_file(),
    Flag::value(
        "config",
        "FILE",
        "Configuration file (KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1). With it only these flags count: what to do, --hostname-override, --manifests, --master, --kernel, --record, --verify and logging. Of a change of the file, log levels, sync periods and node port addresses are heeded at once; any other ends the process, to be started again with it",
        |g, v| {
            g.errand.config = Some(v.into()).filter(|_| !v.is_empty());
            Ok(())
        },
    )
    .beside_file(),
    Flag {
        short: Some('h'),
        ..Flag::switch("help", "Print this, then exit", |g, v| set(&mut g.errand.help, v)).beside_file()
    },
    Flag::switch(
        "init-only",
        "Do only what needs all of root's privileges, then exit; afterwards CAP_NET_ADMIN is enough to run",
        |g, v| set(&mut g.errand.init_only, v),
    )
    .beside_file(),
    Flag::value(
        "kernel",
        "real|simulated",
        "Which kernel to program: this machine's, or one in memory that needs no privileges and moves none of this machine's packets",
        |g, v| {
            g.errand.kernel = match v {
                "real" => KernelChoice::Real,
                "simulated" => KernelChoice::Simulated,
                _ => return Err("real or simulated".into()),
            };
            Ok(())
        },
    )
    .default("real")
    .beside_file(),
    Flag::value(
        "record",
        "FILE",
        "Write down what is told, done and answered, for `kube-proxy replay`: a ring of this file and the same with .old behind its name",
        |g, v| {
            g.errand.record = Some(v.into()).filter(|_| !v.is_empty());
            Ok(())
        },
    )
    .beside_file(),
    Flag::value(
        "record-megabytes",
        "NUMBER",
        "How much --record keeps at most, in MiB",
        |g, v| {
            let number = v.parse().ok().filter(|number| *number > 0);
            g.errand.record_megabytes = Some(number.ok_or("a whole number of 1 or more")?);
            Ok(())
        },
    )
    .default("64")
    .beside_file(),
    Flag::value(
        "verify",
        "off|sample|full",
        "Put everything into a kernel in memory before it is written, and keep back what would break a promise of the API there: of Services that change and a few others, or of all each time",
        |g, v| {
            g.errand.verify = Extent::of(v).ok_or("off, sample or full")?;
            Ok(())
        },
    )
    .default("off")
    .beside_file(),
    Flag::value(
        "verify-dumps",
        "DIR",
        "With --verify: write a dump (see `kube-proxy dump`) to this folder when a promise would be broken, three at most",
        |g, v| {
            g.errand.verify_dumps = Some(v.into()).filter(|_| !v.is_empty());
            Ok(())
        },
    )
    .beside_file(),
    Flag::switch("version", "Print the version, then exit; --version=raw prints all that is known of the build", |g, v| {
        g.errand.version = match v {
            "raw" => Some(VersionForm::Raw),
            _ => forms::boolean(v).map_err(|_| "true, false or raw")?.then_some(VersionForm::Short),
        };
        Ok(())
    })
    .beside_file(),
    Flag::value(
        "write-config-to",
        "FILE",
        "Write the configuration that flags (or --config) and defaults make to this file, then exit",
        |g, v| {
            g.errand.write_config_to = Some(v.into()).filter(|_| !v.is_empty());
            Ok(())
        },
    )
    .beside_file(),
];

pub(super) const PROCESS: &[Flag] = &[
    Flag::switch(
        "bind-address-hard-fail",
        "End the process if the port of healthz or metrics can't be bound, instead of trying again. Health-check node ports are always tried again",
        |g, v| boolean(&mut g.wire.bind_address_hard_fail, v),
    )
    .default("false")
    .feeds(&["bindAddressHardFail"]),
    Flag::value(
        "healthz-bind-address",
        "IP[:PORT]",
        "Where /healthz and /livez are served; empty is off",
        |g, v| text(&mut g.wire.healthz_bind_address, v),
    )
    .default("0.0.0.0:10256")
    .feeds(&["healthzBindAddress"]),
    Flag::value(
        "healthz-port",
        "PORT",
        "Deprecated, use --healthz-bind-address: its port if it has none; 0 is off",
        |g, v| int32(&mut g.ports[0], v),
    ),
    Flag::value(
        "metrics-bind-address",
        "IP[:PORT]",
        "Where /metrics is served; empty is off",
        |g, v| text(&mut g.wire.metrics_bind_address, v),
    )
    .default("127.0.0.1:10249")
    .feeds(&["metricsBindAddress"]),
    Flag::value(
        "metrics-port",
        "PORT",
        "Deprecated, use --metrics-bind-address: its port if it has none; 0 is off",
        |g, v| int32(&mut g.ports[1], v),
    ),
    Flag::value(
        "oom-score-adj",
        "-1000..1000",
        "The process' oom_score_adj",
        |g, v| int32(&mut g.wire.oom_score_adj, v),
    )
    .default("-999")
    .feeds(&["oomScoreAdj"]),
    Flag::switch(
        "profiling",
        "Serve profiles under /debug/pprof beside the metrics",
        |g, v| boolean(&mut g.wire.enable_profiling, v),
    )
    .default("false")
    .feeds(&["enableProfiling"]),
    Flag::value(
        "show-hidden-metrics-for-version",
        "1.35",
        "Accepted: no metric is hidden here. Only the previous minor version is allowed",
        |g, v| text(&mut g.wire.show_hidden_metrics_for_version, v),
    )
    .feeds(&["showHiddenMetricsForVersion"]),
];

pub(super) const LOGGING: &[Flag] = &[
    Flag::value(
        "log-flush-frequency",
        "DURATION",
        "Accepted; every line is written at once",
        |g, v| {
            g.wire.logging.flush_frequency = Some(FlushFrequency(GoDuration::parse(v)?));
            Ok(())
        },
    )
    .default("5s")
    .feeds(&["logging.flushFrequency"])
    .beside_file(),
    Flag::value("logging-format", "text|json", "Format of log lines", |g, v| text(&mut g.wire.logging.format, v))
        .default("text")
        .feeds(&["logging.format"])
        .beside_file(),
    Flag {
        short: Some('v'),
        ..Flag::value(
            "v",
            "LEVEL",
            "How much is logged: 0 to 2 what matters, 3 to 5 also what helps to debug, 6 and more everything",
            |g, v| {
                g.wire.logging.verbosity = Some(level(v)?);
                Ok(())
            },
        )
        .default("0")
        .feeds(&["logging.verbosity"])
        .beside_file()
    },
    Flag::value(
        "vmodule",
        "PATTERN=LEVEL,...",
        "Levels of their own for source files, by name without .rs; * and ? are wildcards. Text format only",
        vmodule,
    )
    .feeds(&["logging.vmodule"])
    .beside_file(),
];

const CADVISOR: &str = "it was cAdvisor's, and nothing reads it";
const STREAMS: &str = "all log lines go to standard error, unbuffered";

pub(super) const OBSOLETE: &[Flag] = &[
    obsolete(
        "azure-container-registry-config",
        "FILE",
        "it was a cloud provider's, and nothing reads it",
    ),
    obsolete("boot-id-file", "FILE,...", CADVISOR),
    Flag {
        beside_file: true,
        obsolete: Some(STREAMS),
        ..Flag::value("log-json-info-buffer-size", "SIZE", STREAMS, |g, v| {
            buffer(&mut g.wire.logging.json, v)
        })
        .feeds(&["logging.options.json.infoBufferSize"])
    },
    Flag {
        beside_file: true,
        obsolete: Some(STREAMS),
        ..Flag::switch("log-json-split-stream", STREAMS, |g, v| {
            boolean(&mut g.wire.logging.json.split_stream, v)
        })
        .feeds(&["logging.options.json.splitStream"])
    },
    Flag {
        beside_file: true,
        obsolete: Some(STREAMS),
        ..Flag::value("log-text-info-buffer-size", "SIZE", STREAMS, |g, v| {
            buffer(&mut g.wire.logging.text, v)
        })
        .feeds(&["logging.options.text.infoBufferSize"])
    },
    Flag {
        beside_file: true,
        obsolete: Some(STREAMS),
        ..Flag::switch("log-text-split-stream", STREAMS, |g, v| {
            boolean(&mut g.wire.logging.text.split_stream, v)
        })
        .feeds(&["logging.options.text.splitStream"])
    },
    obsolete("machine-id-file", "FILE,...", CADVISOR),
];

/// A flag whose value nobody looks at.
const fn obsolete(name: &'static str, value: &'static str, why: &'static str) -> Flag {
    Flag { obsolete: Some(why), ..Flag::value(name, value, why, |_, _| Ok(())) }
}

fn set(slot: &mut bool, value: &str) -> Result<(), String> {
    *slot = forms::boolean(value)?;
    Ok(())
}

fn buffer(routing: &mut OutputRouting, value: &str) -> Result<(), String> {
    forms::quantity(value)?;
    routing.info_buffer_size = Some(Quantity(value.to_owned()));
    Ok(())
}

fn level(value: &str) -> Result<u32, &'static str> {
    value.parse().map_err(|_| "a whole number of 0 or more")
}

/// Puts `pattern=N,...` before what the file has: flags come first, and the first match counts.
/// A repeated flag takes the place of the earlier one.
fn vmodule(given: &mut Given, value: &str) -> Result<(), String> {
    let mut items = Vec::new();
    for item in value.split(',').filter(|item| !item.is_empty()) {
        let (pattern, verbosity) =
            item.split_once('=').ok_or("PATTERN=LEVEL pairs, separated by commas")?;
        items.push(VmoduleItem { file_pattern: pattern.to_owned(), verbosity: level(verbosity)? });
    }
    let all = given.wire.logging.vmodule.get_or_insert_default();
    let count = items.len();
    all.splice(0..given.vmodule_given, items);
    given.vmodule_given = count;
    Ok(())
}
