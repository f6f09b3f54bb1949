//! The man page: clap_mangen writes down the bare command, and here the questions follow, each with its flags and
//! examples, in the same language (roff). Tests: `cli::tests`.

use super::ask::Name;
use super::help;
use crate::config::VersionForm;

/// The man page, for section 8.
pub(super) fn page() -> String {
    let mut page = Vec::new();
    let version = help::version(VersionForm::Short);
    let man = clap_mangen::Man::new(help::command()).section("8").source(version);
    // Fails only if writing does, and a Vec takes anything.
    let _ = man.render(&mut page);
    let questions: String = Name::ALL.into_iter().map(|(_, name)| question(name)).collect();
    format!(
        "{}\n.SH QUESTIONS\n{}\n{questions}",
        String::from_utf8_lossy(&page).trim_end(),
        text(
            "Commands that answer questions about this node, or about what was written down. All flags \
         of kube-proxy itself count too: they say how it is set up.",
        )
    )
}

fn question(name: Name) -> String {
    let [usage, about, more] = name.words();
    let flags = name.own().map(|(flag, value, what)| {
        let value =
            if value.is_empty() { String::new() } else { format!(" \\fI{}\\fR", escaped(value)) };
        format!(".TP\n\\fB{}\\fR{value}\n{}\n", escaped(&format!("--{flag}")), text(what))
    });
    let flags: String = flags.collect();
    format!(
        ".SS {}\n{}\n{flags}.PP\n.nf\n{}\n.fi\n",
        escaped(&format!("kube-proxy {usage}")),
        text(about),
        text(more)
    )
}

/// Lines of text: none may look like a request.
fn text(words: &str) -> String {
    let line = |line: &str| {
        let line = escaped(line);
        if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
    };
    words.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn escaped(words: &str) -> String {
    words.replace('\\', "\\e").replace('-', "\\-")
}
