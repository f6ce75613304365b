//! From the plan of a build to what a person is told of it.

use std::collections::BTreeMap;

use super::images::Images;
use super::needs::{self, Need, need};
use super::{Order, step_failure};
use crate::dockerfile::Dockerfile;
use crate::image::{Flavor, Image};
use crate::plan::{
    Action, Arguments, Base, CopySource, CopyStep, LayersAre, Origin, Outline, OutlinedBase,
    OutlinedStage, OutlinedStep, Outputs, Plan, PlannedStage, Scope, SkippedStage, step,
};
use crate::report::Failure;

/// A stage after its last instruction.
type Ended = (Image, Scope);

pub(super) fn outline(
    order: &Order,
    file: &Dockerfile,
    arguments: &Arguments,
    plan: &Plan<'_>,
    images: &Images<'_>,
) -> Result<Outline, Failure> {
    let mut ended: BTreeMap<usize, Ended> = BTreeMap::new();
    let mut stages = Vec::new();
    for stage in &plan.stages {
        let start = match &stage.base {
            Base::Stage(number) => ended.get(number).cloned(),
            Base::Scratch | Base::Image(..) => None,
        };
        let (image, scope) = start.unwrap_or_else(|| start_of(stage, plan, arguments));
        let (steps, end) = steps(stage, file, images, image, scope)?;
        ended.insert(stage.number, end);
        stages.push(OutlinedStage {
            number: stage.number,
            name: stage.source.name.clone(),
            line: stage.source.line,
            platform: stage.platform.to_string(),
            base: base(plan, stage),
            steps,
            is_result: stage.number == plan.result,
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

fn start_of(stage: &PlannedStage<'_>, plan: &Plan<'_>, arguments: &Arguments) -> Ended {
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
        });
    }
    Ok((steps, (image.with_config(config), scope)))
}

fn base(plan: &Plan<'_>, stage: &PlannedStage<'_>) -> OutlinedBase {
    match &stage.base {
        Base::Scratch => OutlinedBase::Scratch,
        Base::Stage(number) => OutlinedBase::Stage { number: *number },
        Base::Image(image, name) => {
            let layers_are = match need(plan, stage) {
                Need::Nothing => LayersAre::Named,
                Need::Outline => LayersAre::Listed,
                Need::Files => LayersAre::Unpacked,
            };
            let because = stage.instructions.iter().find(|it| needs::of(&it.node) == Need::Files);
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
