//! From the plan of a build to what a person is told of it.

use std::collections::BTreeMap;

use super::ahead::{Ahead, Fate, Keyed};
use super::images::Images;
use super::needs::{self, Need, need};
use super::{Order, step_failure};
use crate::cache::{Cache, Miss};
use crate::dockerfile::Dockerfile;
use crate::image::{Flavor, Image};
use crate::plan::{
    Action, Arguments, Base, CopySource, CopyStep, Found, LayersAre, Origin, Outline, OutlinedBase,
    OutlinedInput, OutlinedLayer, OutlinedStage, OutlinedStep, Outputs, Plan, PlannedStage, Scope,
    SkippedStage, step,
};
use crate::report::{Failure, bytes};

/// A stage after its last instruction.
pub(super) type Ended = (Image, Scope);

/// What is known of a cache.
pub(super) struct Looked<'a> {
    pub(super) ahead: &'a Ahead,
    pub(super) cache: &'a Cache<'a>,
}

pub(super) fn outline(
    order: &Order,
    file: &Dockerfile,
    arguments: &Arguments,
    plan: &Plan<'_>,
    images: &Images<'_>,
    looked: Option<&Looked<'_>>,
) -> Result<Outline, Failure> {
    let mut ended: BTreeMap<usize, Ended> = BTreeMap::new();
    let mut stages = Vec::new();
    for stage in &plan.stages {
        let start = match &stage.base {
            Base::Stage(number) => ended.get(number).cloned(),
            Base::Scratch | Base::Image(..) => None,
        };
        let (image, mut scope) = start.unwrap_or_else(|| start_of(stage, plan, arguments));
        scope.begin_stage(&image.config().config.env);
        let (mut steps, end) = steps(stage, file, images, image, scope)?;
        if let Some(looked) = looked {
            looked.tell(stage, &mut steps);
        }
        ended.insert(stage.number, end);
        stages.push(OutlinedStage {
            number: stage.number,
            name: stage.source.name.clone(),
            line: stage.source.line,
            platform: stage.platform.to_string(),
            base: base(plan, stage, looked),
            steps,
            is_result: stage.number == plan.result,
            not_needed: looked.is_some_and(|it| !it.ahead.wants(stage.number)),
        });
    }
    let built = |number: &usize| plan.stages.iter().any(|stage| stage.number == *number);
    let skipped = file.stages.iter().enumerate().filter(|(number, _)| !built(number));
    let outputs = &order.outputs;
    let destinations = if outputs.push { outputs.destinations.as_slice() } else { &[] };
    Ok(Outline {
        dockerfile: file.source.name.clone(),
        stages,
        skipped: skipped
            .map(|(number, stage)| SkippedStage {
                number,
                name: stage.name.clone(),
                line: stage.line,
            })
            .collect(),
        outputs: Outputs {
            push: destinations.iter().map(ToString::to_string).collect(),
            tar: outputs.tar.as_ref().map(|path| path.display().to_string()),
            oci_layout: outputs.layout.as_ref().map(|path| path.display().to_string()),
        },
    })
}

pub(super) fn start_of(stage: &PlannedStage<'_>, plan: &Plan<'_>, arguments: &Arguments) -> Ended {
    let image = match &stage.base {
        Base::Image(image, _) => (**image).clone(),
        Base::Scratch | Base::Stage(_) => Image::scratch(Flavor::Docker, &stage.platform),
    };
    let scope = Scope::new(arguments, &plan.globals, &image.config().config.env);
    (image, scope)
}

fn steps(
    stage: &PlannedStage<'_>,
    file: &Dockerfile,
    images: &Images<'_>,
    image: Image,
    mut scope: Scope,
) -> Result<(Vec<OutlinedStep>, Ended), Failure> {
    let mut config = image.config().clone();
    config.config.on_build.clear();
    let (mut steps, mut command_is_own) = (Vec::new(), false);
    for (place, instruction) in stage.instructions.iter().enumerate() {
        let trigger = place < stage.triggers;
        let ready = step(
            instruction,
            stage.number,
            file,
            images,
            &mut config,
            &mut scope,
            &mut command_is_own,
        )
        .map_err(|error| step_failure(&error, trigger, file))?;
        steps.push(OutlinedStep {
            line: if trigger { stage.source.line } else { ready.line },
            trigger,
            pulls: pulled(&ready.action),
            fetches: fetched(&ready.action),
            layer: !matches!(ready.action, Action::Configure),
            created_by: ready.created_by,
            text: ready.text,
            cache: None,
        });
    }
    Ok((steps, (image.with_config(config), scope)))
}

impl Looked<'_> {
    /// Says of each step that makes a layer what is known of it.
    fn tell(&self, stage: &PlannedStage<'_>, steps: &mut [OutlinedStep]) {
        let mut missed = false;
        for (number, step) in steps.iter_mut().enumerate().filter(|(_, step)| step.layer) {
            let layer = match self.ahead.step(stage.number, number) {
                Some(keyed) => self.layer(stage, keyed, missed),
                None => OutlinedLayer {
                    key: None,
                    found: Found::Miss,
                    why: "what it depends on is known when it is built".to_owned(),
                    inputs: Vec::new(),
                },
            };
            missed |= layer.found == Found::Miss;
            step.cache = Some(layer);
        }
    }

    fn layer(&self, stage: &PlannedStage<'_>, step: &Keyed, missed: bool) -> OutlinedLayer {
        let (found, why) = match self.cache.found(step.key) {
            _ if !step.cached => {
                (Found::Uncached, "the flags say that it is not to be cached".to_owned())
            }
            Ok(entry) if step.fate == Fate::Hit => {
                let size = bytes(entry.layer.descriptor.size);
                (Found::Hit, format!("{size} of {}", entry.created))
            }
            Ok(_) if step.fate == Fate::Other => {
                (Found::Miss, step.why(Miss::Other, self.cache, &stage.platform))
            }
            Ok(entry) => {
                let created = entry.created;
                let on = "if the commands before it make what they made then";
                (Found::Likely, format!("{created}, {on}"))
            }
            Err(Miss::Absent) if missed => (Found::Miss, "an earlier step missed".to_owned()),
            Err(miss) => (Found::Miss, step.why(miss, self.cache, &stage.platform)),
        };
        let why = match step.command.map_or(0, |command| self.cache.by_reads(command).len()) {
            count if count > 0 && found == Found::Miss => {
                format!(
                    "{why}; the build will see whether it still reads what it read ({count} known)"
                )
            }
            _ => why,
        };
        let inputs = step.record.inputs().map(|(name, digest)| OutlinedInput {
            name: name.to_owned(),
            digest: digest.to_owned(),
        });
        OutlinedLayer { key: Some(step.key.to_string()), found, why, inputs: inputs.collect() }
    }
}

fn base(plan: &Plan<'_>, stage: &PlannedStage<'_>, looked: Option<&Looked<'_>>) -> OutlinedBase {
    match &stage.base {
        Base::Scratch => OutlinedBase::Scratch,
        Base::Stage(number) => OutlinedBase::Stage { number: *number },
        Base::Image(image, name) => {
            let needed = looked.is_none_or(|it| it.ahead.needs_tree(stage.number));
            let layers_are = match need(plan, stage) {
                _ if !needed => LayersAre::Named,
                Need::Nothing => LayersAre::Named,
                Need::Outline => LayersAre::Listed,
                Need::Files => LayersAre::Unpacked,
            };
            let first = looked.and_then(|it| it.ahead.first_with_tree(stage.number));
            let because = match first {
                Some(first) => stage.instructions.get(first),
                None => stage.instructions.iter().find(|it| needs::of(&it.node) == Need::Files),
            };
            let because = || because.map_or("a later stage".to_owned(), |it| it.text.clone());
            OutlinedBase::Image {
                name: name.clone(),
                layers: image.layers().iter().map(|it| it.descriptor.digest.to_string()).collect(),
                bytes: image.layers().iter().map(|it| it.descriptor.size).sum(),
                layers_are,
                because: (layers_are == LayersAre::Unpacked).then(because),
            }
        }
    }
}

fn pulled(action: &Action) -> Option<String> {
    match action {
        Action::Copy(CopyStep { from: Origin::Image(reference), .. }) => {
            Some(reference.to_string())
        }
        _ => None,
    }
}

fn fetched(action: &Action) -> Vec<String> {
    let Action::Copy(copy) = action else { return Vec::new() };
    let urls = copy.sources.iter().filter_map(|source| match source {
        CopySource::Url(url) => Some(crate::context::http::without_credentials(url)),
        _ => None,
    });
    urls.collect()
}
