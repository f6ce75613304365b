//! The executor's account of its steps, out of its log.

/// Seconds.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) wall: f64,
    pub(crate) cpu: f64,
}

/// What one RUN took.
#[derive(Clone)]
pub(crate) struct Step {
    /// The command and its tracer.
    pub(crate) command: Spent,
    /// The comparison of the tree with the index.
    pub(crate) looking: Spent,
    pub(crate) events: f64,
    /// Why it was another backend, or a walk.
    pub(crate) remark: String,
}

impl Spent {
    /// `1.5 s, CPU 1.2 s`.
    fn parse(text: &str) -> Option<Self> {
        let (wall, cpu) = text.split_once(", CPU ")?;
        let seconds = |text: &str| text.trim().strip_suffix(" s")?.parse().ok();
        Some(Self { wall: seconds(wall)?, cpu: seconds(cpu)? })
    }

    fn least(self, other: Self) -> Self {
        Self { wall: self.wall.min(other.wall), cpu: self.cpu.min(other.cpu) }
    }
}

impl Step {
    pub(crate) fn all(&self) -> Spent {
        let (command, looking) = (self.command, self.looking);
        Spent { wall: command.wall + looking.wall, cpu: command.cpu + looking.cpu }
    }

    /// Takes the better of two runs, part by part.
    pub(crate) fn improve(&mut self, other: &Self) {
        self.command = self.command.least(other.command);
        self.looking = self.looking.least(other.looking);
    }

    /// `step 5 took: command 1.5 s, CPU 1.2 s; looking 0.1 s, CPU 0.1 s; 7 stops, 3 events, …`.
    fn parse(text: &str, remark: String) -> Option<Self> {
        let mut parts = text.split("; ");
        let command = Spent::parse(parts.next()?.strip_prefix("command ")?)?;
        let looking = Spent::parse(parts.next()?.strip_prefix("looking ")?)?;
        let mut counts = parts.next()?.split(", ");
        let events = counts.find_map(|count| count.strip_suffix(" events"))?.parse().ok()?;
        Some(Self { command, looking, events, remark })
    }
}

/// The steps of a log, in their order.
pub(crate) fn read(log: &str) -> Vec<Step> {
    let mut remark = String::new();
    let mut steps = Vec::new();
    for line in log.lines() {
        if let Some((_, why)) = line.split_once("This step: ") {
            remark += why;
        } else if let Some((_, why)) = line.split_once("Taking snapshot of full filesystem: ") {
            if !remark.contains("off (") {
                remark += &format!("walked: {why}");
            }
        } else if let Some((_, account)) = line.split_once(" took: ") {
            steps.push(Step::parse(account, std::mem::take(&mut remark)).expect(line));
        }
    }
    steps
}
