//! Scripts that complete in a shell: flags and commands, which clap_complete writes down, and names of objects, which the
//! script asks `kube-proxy names` for. It knows no object. Tests: below, and in the lab with a real bash.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, ValueEnum as _, ValueHint};
use clap_complete::Shell;

use super::ask::Name;
use super::ask_help::Own;
use super::help;
use crate::config::flags;

/// Bash completes words of a line that it splits at colons and equals signs: names have colons, and
/// changes both. A change that ends in an equals sign is not at its end.
const BASH: &str = r#"
_kube-proxy_or_names() {
    local line=${COMP_LINE:0:COMP_POINT} word='' head asked=()
    local -a words=()
    read -ra words <<<"$line"
    if [[ $line != *[[:space:]] ]]; then
        word=${words[-1]}
        unset 'words[-1]'
    fi
    if [[ ${words[1]} == check && ( ${words[-1]} == --what-if || $word == --what-if=* ) ]]; then
        word=${word#--what-if=}
        asked=(--changes)
    elif [[ ${words[1]} != trace || $word == -* || ( ${words[-1]} == --* && ${words[-1]} != *=* ) ]]; then
        _kube__proxy "$@"
        return
    fi
    head=${word%"${word##*[:=]}"}
    asked+=("${words[@]:2}")
    mapfile -t COMPREPLY < <(compgen -W "$("${words[0]}" names "${asked[@]}" 2>/dev/null)" -- "$word")
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _kube-proxy_or_names -o bashdefault -o default kube-proxy
"#;

/// Zsh completes the ends of a packet, and changes, with these functions.
const ZSH: &str = r#"
(( $+functions[_kube-proxy_names] )) || _kube-proxy_names() {
    local -a names
    names=(${(f)"$(kube-proxy names ${words[2,-2]} 2>/dev/null)"})
    compadd -- $names
}
(( $+functions[_kube-proxy_changes] )) || _kube-proxy_changes() {
    local -a changes
    changes=(${(f)"$(kube-proxy names --changes ${words[2,-2]} 2>/dev/null)"})
    compadd -S '' -- $changes
}
"#;

const FISH: &str = r#"
complete -c kube-proxy -n "__fish_seen_subcommand_from trace" -f -a "(kube-proxy names (commandline -opc)[3..-1] 2>/dev/null)"
complete -c kube-proxy -n "__fish_seen_subcommand_from check" -l what-if -x -a "(kube-proxy names --changes (commandline -opc)[3..-1] 2>/dev/null)"
"#;

/// A script for a shell; an error names the shells there are.
pub(super) fn script(shell: &str) -> Result<String, String> {
    let shells = || {
        let names = Shell::value_variants().iter().map(ToString::to_string);
        names.collect::<Vec<_>>().join(", ")
    };
    let shell = Shell::from_str(shell, false)
        .map_err(|_| format!("kube-proxy completion SHELL: one of {}", shells()))?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut all(), "kube-proxy", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    Ok(match shell {
        // clap_complete 4.6 takes the hyphen of the program's name for a subcommand's in one of two places.
        Shell::Bash => script.replace("kube__subcmd__proxy", "kube__proxy") + BASH,
        // What is marked as a host's name is an end of a packet, and as a URL a change.
        Shell::Zsh => {
            let (head, tail) = script.split_once("\n\n").unwrap_or((&script, ""));
            let tail = tail.replace(":_hosts", ":_kube-proxy_names");
            format!("{head}\n{ZSH}\n{}", tail.replace(":_urls", ":_kube-proxy_changes"))
        }
        Shell::Fish => script + FISH,
        _ => script,
    })
}

/// The bare command with those beside it.
fn all() -> Command {
    let asked = Name::ALL.map(|(word, name)| {
        let ends = if name == Name::Trace { &["FROM", "TO"][..] } else { &[] };
        let ends = ends.iter().map(|end| Arg::new(*end).value_hint(ValueHint::Hostname));
        let own = name.own().filter(|(flag, ..)| *flag != "help").map(own);
        let flags = flags::GROUPS.iter().flat_map(|group| group.flags.iter().map(help::arg));
        Command::new(word)
            .about(name.about())
            .disable_help_flag(true)
            .args(ends)
            .args(own)
            .args(flags)
    });
    let shells = Shell::value_variants().iter().filter_map(Shell::to_possible_value);
    let shell = Arg::new("SHELL").value_parser(PossibleValuesParser::new(shells));
    let printing = [
        Command::new("completion").about("Prints a script that completes in a shell.").arg(shell),
        Command::new("man").about("Prints the man page."),
    ];
    help::command()
        .disable_help_subcommand(true)
        .subcommands(asked)
        .subcommands(printing.map(|command| command.disable_help_flag(true)))
}

/// A command's own flag.
fn own((name, value, what): &'static Own) -> Arg {
    let arg = Arg::new(*name).long(*name).help(*what);
    match *value {
        "" => arg.action(ArgAction::SetTrue),
        "FILE" => arg.value_hint(ValueHint::FilePath),
        "CHANGE" => arg.value_hint(ValueHint::Url),
        words if words.contains('|') => {
            arg.value_parser(PossibleValuesParser::new(words.split('|')))
        }
        _ => arg,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_commands_and_their_flags() {
        for shell in Shell::value_variants() {
            let script = script(&shell.to_string()).unwrap();
            for word in ["trace", "check", "replay", "what-if", "until", "proxy-mode"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            // The others complete no values of flags.
            let values = [Shell::Bash, Shell::Zsh, Shell::Fish].contains(shell);
            assert_eq!(script.contains("mermaid"), values, "{shell}");
        }
    }

    /// A real bash, with a kube-proxy that says how it was asked and offers changes and an end.
    #[test]
    fn bash_offers_changes_behind_what_if() {
        const ASK: &str = r#"
            source /dev/stdin <<<"$SCRIPT"
            kube-proxy() {
                if [[ " $* " == *' --changes '* ]]; then
                    printf '%s\n' mode=ipvs mode=iptables node-drain=node-2 set-field=default/web:externalIPs=
                else
                    echo svc/default/web:http
                fi
            }
            COMP_LINE=$1 COMP_POINT=${#1}
            _kube-proxy_or_names kube-proxy x y
            echo "${COMPREPLY[*]}"
        "#;
        let offered = |line: &str| {
            let mut bash = std::process::Command::new("bash");
            bash.args(["-c", ASK, "bash", line]).env("SCRIPT", script("bash").unwrap());
            let output = bash.output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        // Bash completes what stands behind the last colon or equals sign.
        for (line, wanted) in [
            ("kube-proxy check --what-if mo", "mode=ipvs mode=iptables"),
            ("kube-proxy check --what-if=mode=ip", "ipvs iptables"),
            ("kube-proxy check --manifests m --what-if node-drain=", "node-2"),
            ("kube-proxy check --what-if set-field=default/web:e", "externalIPs="),
            ("kube-proxy trace node svc/default/web:", "http"),
        ] {
            // Where there is no bash, the lab's own test says so.
            let Some(offered) = offered(line) else { return };
            assert_eq!(offered, wanted, "{line}");
        }
    }

    #[test]
    fn names_of_objects_are_asked_for() {
        for shell in ["bash", "zsh", "fish"] {
            assert!(script(shell).unwrap().contains(" names "), "{shell}");
        }
        // What clap_complete calls its function, and the name's part goes on to.
        let bash = script("bash").unwrap();
        assert!(bash.starts_with("_kube__proxy() {"), "{bash}");
        assert!(bash.contains("        _kube__proxy \"$@\""), "{bash}");
        let zsh = script("zsh").unwrap();
        assert!(zsh.starts_with("#compdef kube-proxy"), "{zsh}");
        assert_eq!(zsh.matches(":_kube-proxy_names").count(), 2);
        assert_eq!(zsh.matches(":_kube-proxy_changes").count(), 1);
        assert!(!zsh.contains(":_urls"), "{zsh}");
    }
}
