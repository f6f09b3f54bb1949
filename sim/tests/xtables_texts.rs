//! What iptables-restore takes, refuses, and what iptables-save prints of it: the same as the real tools of both flavours
//! (tests/fixtures/xtables, made by capture.py there).

mod support;

use sim::{Host, XtCounters, XtErrorKind, XtFamily, XtRestore, XtTable};

const BASE: &str = "*filter\n:A - [0:0]\n:B - [0:0]\n-A A -j B\n-A FORWARD -j A\nCOMMIT\n";

const FLUSH: XtRestore = XtRestore { noflush: false, counters: true };
const KEEP: XtRestore = XtRestore { noflush: true, counters: true };

/// What Linux takes and the simulator refuses, quoting it: a part of each rule.
const NOT_MODELLED: &[&str] = &[
    "--dport http",
    "--tcp-option",
    "--chunk-types",
    "-m socket",
    "-f ",
    "--to-destination 10.0.0.1:80-90/100",
    "-j CT",
    "-j NOTRACK",
    "-p 200",
    "-s 1.2.3 ",
    "-s 01.2",
    "\"unterminated",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn rules_of(text: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with("-A T1")).map(str::to_owned).collect()
}

fn blocks(text: &str) -> Vec<Vec<&str>> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match (line.starts_with(['=', '!', '~']), blocks.last_mut()) {
            (true, Some(block)) => block.push(line),
            _ => blocks.push(vec![line]),
        }
    }
    blocks
}

#[test]
fn rules_are_taken_refused_and_printed_as_the_tools_do() {
    let mut wrong = String::new();
    let mut compared = 0;
    for block in blocks(include_str!("fixtures/xtables/rules.txt")) {
        let mut parts = block[0].splitn(3, ' ');
        let family = if parts.next() == Some("4") { XtFamily::V4 } else { XtFamily::V6 };
        let (table, rule) = (parts.next().expect("a table"), parts.next().unwrap_or_default());
        let mut host = Host::new(1);
        let text = format!("*{table}\n:T1 - [0:0]\n:T2 - [0:0]\n-A T1 {rule}\nCOMMIT\n");
        let done = host.iptables_restore(family, &text, XtRestore::default());
        let saved = rules_of(&host.iptables_save(family, XtTable::named(table).expect("a table")));
        let expected: Vec<String> = block[1..]
            .iter()
            .filter(|line| line.starts_with('='))
            .map(|line| line[2..].to_owned())
            .collect();
        let refused = block[1..].iter().any(|line| !line.starts_with('='));
        let fine = match &done {
            Ok(()) => !refused && saved == expected,
            Err(error) if error.kind == XtErrorKind::NotModelled => {
                refused || NOT_MODELLED.iter().any(|part| format!("{rule} ").contains(part))
            }
            Err(error) => refused && matches!(error.line, 4 | 5),
        };
        compared += 1;
        if !fine {
            wrong += &format!("{block:#?}\n  came to {done:?} {saved:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(compared > 300, "{compared} rules");
}

/// Tables as capture.py prints them: those that hold more than built-in chains that accept.
fn body(host: &Host) -> String {
    let mut out = String::new();
    for table in XtTable::ALL {
        let text = host.iptables_save_with(XtFamily::V4, table, XtCounters::Show);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with(['#', '*']) && *line != "COMMIT")
            .collect();
        if !lines.iter().all(|line| line.starts_with(':') && line.contains(" ACCEPT [")) {
            out += &format!("*{}\n{}\n", table.name(), lines.join("\n"));
        }
    }
    out
}

#[test]
fn texts_change_tables_as_the_tools_do_and_are_refused_as_they_do() {
    let mut wrong = String::new();
    for block in include_str!("fixtures/xtables/texts.txt").split("### ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("a name");
        let (text, answer) = rest.split_once("--- ").expect("an answer");
        let (said, saved) = answer.split_once('\n').expect("an answer's line");
        let mut host = Host::new(1);
        host.iptables_restore(XtFamily::V4, BASE, FLUSH).expect("the base is fine");
        let before = body(&host);
        let done = host.iptables_restore(
            XtFamily::V4,
            text,
            if name.ends_with("noflush") { KEEP } else { FLUSH },
        );
        let fine = match said.as_bytes()[0] {
            b'=' => {
                done.is_ok() && body(&host) == saved
                    || done.as_ref().is_err_and(|error| error.kind == XtErrorKind::NotModelled)
            }
            b'!' => done.is_err() && body(&host) == saved,
            _ => done.is_err() && body(&host) == before,
        };
        if !fine {
            wrong +=
                &format!("### {name}\n{text}--- {said}\n{saved}came to {done:?}\n{}", body(&host));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_refusal_of_the_model_quotes_what_it_refuses() {
    let asked = [
        "*filter\n-A INPUT -m socket -j DROP\nCOMMIT\n",
        "*raw\n-A OUTPUT -j CT --notrack\nCOMMIT\n",
        "*filter\n-A INPUT -f\nCOMMIT\n",
        "*filter\n-A INPUT -p tcp --dport http\nCOMMIT\n",
        "*security\nCOMMIT\n",
        "*filter\n-L\nCOMMIT\n",
        "*filter\n:LOG - [0:0]\nCOMMIT\n",
    ];
    let list = include_str!("../MODEL.md");
    let quotes: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_once("`not modelled: "))
        .map(|(_, quote)| quote.trim_end_matches('`'))
        .collect();
    assert_eq!(quotes.len(), asked.len());
    for (quote, text) in quotes.iter().zip(asked) {
        let error = Host::new(1)
            .iptables_restore(XtFamily::V4, text, XtRestore::default())
            .expect_err("it must be refused");
        assert_eq!(error.kind, XtErrorKind::NotModelled, "{error}");
        assert!(error.to_string().contains(quote), "\"{quote}\" is not in: {error}");
    }
}

#[test]
fn an_error_says_line_and_column_and_what_was_expected() {
    let said = |text: &str| {
        Host::new(1)
            .iptables_restore(XtFamily::V4, text, FLUSH)
            .expect_err("it must be refused")
            .to_string()
    };
    let jump = said("*filter\n:A - [0:0]\n-A A -m comment --comment \"a b\" -j NOPE\nCOMMIT\n");
    assert_eq!(
        jump,
        "line 3, column 36: Chain 'NOPE' does not exist: expected a target or a chain of this table"
    );
    assert!(
        said("*filter\n[1:x] -A INPUT\nCOMMIT\n")
            .starts_with("line 2, column 1: expected [packets:bytes]")
    );
    assert!(
        said("*filter\n-A INPUT -m set --match-set nope src\nCOMMIT\n")
            .contains("Set nope doesn't exist.")
    );
    assert!(said("*filter\n-A INPUT\nCOMMIT").contains("expected a newline"));
    assert!(said("*filter\n-A INPUT\n").contains("COMMIT expected"));
}
