//! `kube-proxy trace`: names become a packet, the answer becomes words.
//! Tests: `netlab`.

use std::io::IsTerminal;

use super::{Said, Scene, UNKNOWN, WELL, WRONG, json};
use crate::check::{Case, complete};
use crate::cli::ask::{Asked, Detail, Output, Place, Rules, Trace};
use crate::kernel::real::survey::flow;
use crate::kernel::{FlowFact, Socket};
use crate::model::Family;
use crate::trace::{
    Answer, Colour, Directory, Gap, Question, Wish, World, ask, desired, differences, load,
    mermaid, mermaid_of_both, parse, text,
};
use crate::track::Tracker;

pub(super) fn trace(asked: &Asked, wish: &Trace, scene: Scene) -> Result<Said, String> {
    let mut tracker = Tracker::new(scene.options.node_name.clone());
    scene.events.iter().cloned().for_each(|event| tracker.feed(event));
    let cluster = scene.has_objects.then(|| tracker.cluster());
    let podless = scene.podless.as_deref();
    let directory = Directory { cluster, pods: &scene.pods, podless };
    if wish.rules != Rules::Live && !scene.has_objects {
        return Err("--desired and --compare need objects: --manifests DIR, --kubeconfig FILE, or a dump that has them".to_owned());
    }
    let wanted =
        || desired(scene.survey.clone(), &scene.events, &scene.options).map_err(|e| e.to_string());
    let case = scene.has_objects.then_some(Case { events: &scene.events, options: &scene.options });
    let live = asked.node == Place::Here;
    let shown = Shown { asked, wish, directory, case, live };
    let said = match wish.rules {
        Rules::Live => shown.one(load(scene.survey)),
        Rules::Desired => shown.one(wanted()?),
        Rules::Compared => {
            let wanted = wanted()?;
            shown.both(load(scene.survey), wanted)
        }
    }?;
    // Whoever gave no objects expects no names.
    let unnamed = podless.filter(|_| scene.has_objects);
    let error = unnamed.map(|why| format!("pods are not named: {why}\n")).unwrap_or_default();
    Ok(Said { error, ..said })
}

/// Where a packet goes in a world that is there already.
pub(super) fn in_world(
    asked: &Asked,
    wish: &Trace,
    world: World,
    case: Case<'_>,
) -> Result<Said, String> {
    let tracker = case.tracker();
    let podless = Some("a record has no names of pods");
    let directory = Directory { cluster: Some(tracker.cluster()), pods: &[], podless };
    Shown { asked, wish, directory, case: Some(case), live: false }.one(world)
}

struct Shown<'a> {
    asked: &'a Asked,
    wish: &'a Trace,
    directory: Directory<'a>,
    case: Option<Case<'a>>,
    /// Whether this node is asked, which has more connections than it would be good to read.
    live: bool,
}

impl Shown<'_> {
    fn ask(&self, world: &mut World) -> Result<Answer, String> {
        let wrong = |e: crate::trace::NoSuch| e.to_string();
        let mut to = parse(&self.wish.to).map_err(wrong)?;
        to.1 = self.wish.port.clone().or(to.1);
        let wish = Wish {
            from: parse(&self.wish.from).map_err(wrong)?,
            to,
            protocol: self.wish.protocol,
            family: self.wish.family,
        };
        let link = self.wish.link.as_deref();
        let question = wish.resolve(&self.directory, world, link).map_err(wrong)?;
        if self.live {
            take_its_flow(world, &question);
        }
        let mut answer = ask(world, &question);
        if let Some(case) = &self.case {
            complete(&mut answer, (world, &question), case);
        }
        Ok(answer)
    }

    fn one(&self, mut world: World) -> Result<Said, String> {
        let answer = self.ask(&mut world)?;
        let out = match self.asked.output {
            Output::Text => self.words(&answer),
            Output::Json => json(&answer)?,
            Output::Mermaid => mermaid(&answer, &self.directory),
        };
        let code = if answer.is_certain() { WELL } else { UNKNOWN };
        Ok(Said { out, code, ..Said::default() })
    }

    fn both(&self, mut live: World, mut wanted: World) -> Result<Said, String> {
        let (live, wanted) = (self.ask(&mut live)?, self.ask(&mut wanted)?);
        let differences = differences(&live, &wanted);
        let same = differences.is_empty();
        let out = match self.asked.output {
            Output::Text if same => {
                format!("{}live and desired rules do the same\n", self.words(&live))
            }
            Output::Text => {
                let lines = differences.iter().map(|one| format!("  {one}\n"));
                let lines: String = lines.collect();
                let (live, wanted) = (self.words(&live), self.words(&wanted));
                format!("live:\n{live}desired:\n{wanted}live and desired rules DIFFER:\n{lines}")
            }
            Output::Json => json(&serde_json::json!({
                "same": same, "differences": differences, "live": live, "desired": wanted,
            }))?,
            Output::Mermaid => mermaid_of_both(&live, &wanted, &self.directory),
        };
        let code = match (live.is_certain() && wanted.is_certain(), same) {
            (false, _) => UNKNOWN,
            (true, true) => WELL,
            (true, false) => WRONG,
        };
        Ok(Said { out, code, ..Said::default() })
    }

    fn words(&self, answer: &Answer) -> String {
        let colour = if std::io::stdout().is_terminal() { Colour::On } else { Colour::Off };
        let mut out = text(answer, &self.directory, colour);
        if self.wish.detail == Detail::Steps
            && let Some(first) = answer.endings.first()
        {
            out.push_str(&format!("\n{}\n", first.journey));
        }
        out
    }
}

/// Takes in the connection that the packet belongs to; without a port it is a new one.
fn take_its_flow(world: &mut World, question: &Question) {
    let [source, destination] = [question.source, question.destination]
        .map(|at| Socket { address: at.ip(), port: at.port() });
    if source.port == 0 {
        return;
    }
    let family = Family::of(source.address);
    let protocol = question.protocol;
    let packet = FlowFact { family, protocol, source, destination, endpoint: destination };
    match flow(&packet) {
        Ok(Some(found)) => {
            world.take_flow(found);
        }
        Ok(None) => {}
        Err(error) => {
            let what = "the conntrack entry of this packet".to_owned();
            world.gaps.push(Gap { what, why: error.to_string() });
        }
    }
}
