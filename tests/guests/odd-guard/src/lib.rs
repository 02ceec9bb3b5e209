//! A guard that does what its configuration says, good and bad: `WHAT ABOUT [VALUE]` a line, such as `trap exec`.

use orka_guard_sdk::{ArtifactList, Decision, ExecRequest, Guard, RunFacts, VmRequest, log};

struct Odd {
    acts: Vec<(String, String, String)>,
    asked: u32,
}

impl Odd {
    /// What the configuration says about this, if it does.
    fn value(&self, what: &str, about: &str) -> Option<&str> {
        let found = self.acts.iter().find(|act| act.0 == what && act.1 == about);
        found.map(|act| act.2.as_str())
    }

    /// Everything that ends an answer before it is given.
    fn misbehave(&mut self, run: &RunFacts, about: &str) {
        self.asked += 1;
        if self.value("tell", about).is_some() {
            log(&format!(
                "question {} about {about}: plugin {} {} in {:?}, run {:?}, {} VMs, {} in all",
                self.asked,
                run.plugin_name,
                run.plugin_digest,
                run.orka_namespace,
                run.run_uid,
                run.vms_at_once,
                run.vms_total
            ));
        }
        if self.value("chat", about).is_some() {
            (0..5000).for_each(|line| log(&format!("line {line}")));
        }
        if self.value("panic", about).is_some() {
            panic!("told to panic about {about}");
        }
        if self.value("spin", about).is_some() {
            loop {
                core::hint::spin_loop();
            }
        }
        if self.value("allocate", about).is_some() {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            loop {
                kept.push(core::hint::black_box(vec![1; 1024 * 1024]));
            }
        }
        if self.value("recurse", about).is_some() {
            deeper(0);
        }
    }
}

#[expect(unconditional_recursion, reason = "that is what it is told to do")]
fn deeper(depth: u64) -> u64 {
    core::hint::black_box(deeper(depth + 1) + depth)
}

impl Guard for Odd {
    fn configure(text: &str) -> Result<Self, String> {
        let words = |line: &str| {
            let mut words = line.split_whitespace().map(str::to_owned);
            let mut next = || words.next().unwrap_or_default();
            (next(), next(), next())
        };
        let acts: Vec<_> = text.lines().map(words).collect();
        if let Some((_, why, _)) = acts.iter().find(|act| act.0 == "refuse") {
            return Err(format!("told to refuse{why}"));
        }
        let mut odd = Self { acts, asked: 0 };
        if odd.value("panic", "configure").is_some() {
            panic!("told to panic while it is configured");
        }
        if odd.value("spin", "configure").is_some() {
            loop {
                core::hint::spin_loop();
            }
        }
        odd.asked = 0;
        Ok(odd)
    }

    fn vm(&mut self, run: &RunFacts, mut vm: VmRequest) -> Decision<VmRequest> {
        self.misbehave(run, "vm");
        if self.value("deny", "vm").is_some() {
            return Decision::deny("told to deny");
        }
        let before = vm.clone();
        for act in &self.acts {
            let value = act.2.clone();
            match (act.0.as_str(), act.1.as_str()) {
                ("image", _) => vm.image = value,
                ("cpu", _) => vm.cpu_cores = value.parse().ok(),
                ("more-cpu", _) => {
                    vm.cpu_cores = Some(vm.cpu_cores.unwrap_or(3) + 1);
                    vm.vcpus = None;
                }
                ("memory", _) => vm.memory_mib = value.parse().ok(),
                ("tag", _) => vm.tag = Some(value),
                ("node", _) => {
                    if let Some(deployment) = &mut vm.deployment {
                        deployment.node = Some(value);
                    }
                }
                ("no-deployment", _) => vm.deployment = None,
                ("late-image", _) if vm.deployment.is_some() => vm.image = value,
                _ => {}
            }
        }
        if vm == before {
            Decision::Allow
        } else {
            Decision::change(vm, "told to change")
        }
    }

    fn exec(&mut self, run: &RunFacts, mut program: ExecRequest) -> Decision<ExecRequest> {
        self.misbehave(run, "exec");
        if self.value("tell", "exec").is_some() {
            log(&format!(
                "{} {:?} in {:?} with {:?}, reads {:?}",
                program.program, program.arguments, program.cwd, program.environment, program.input
            ));
        }
        if self.value("deny", "exec").is_some() {
            return Decision::deny("told to deny");
        }
        if let Some(argument) = self.value("argument", "exec") {
            program.arguments.push(argument.to_owned());
            return Decision::change(program, "told to add an argument");
        }
        if let Some(name) = self.value("unset", "exec") {
            program.environment.retain(|known| known != name);
            return Decision::change(program, "told to unset");
        }
        if let Some(name) = self.value("set", "exec") {
            program.environment.push(name.to_owned());
            return Decision::change(program, "told to set what is not there");
        }
        if self.value("other-vm", "exec").is_some() {
            program.vm = "shared-mini".to_owned();
            return Decision::change(program, "told to take another VM");
        }
        Decision::Allow
    }

    fn artifacts(&mut self, run: &RunFacts, list: ArtifactList) -> Decision<Vec<String>> {
        self.misbehave(run, "artifacts");
        if self.value("deny", "artifacts").is_some() {
            return Decision::deny("told to deny");
        }
        if self.value("invent", "artifacts").is_some() {
            return Decision::change(vec!["../../etc/passwd".to_owned()], "told to invent");
        }
        match self.value("leave-out", "artifacts") {
            None => Decision::Allow,
            Some(ending) => {
                let unwanted = list.files.into_iter().map(|file| file.path);
                let unwanted = unwanted.filter(|path| path.ends_with(ending)).collect();
                Decision::change(unwanted, format!("`{ending}` stays where it is"))
            }
        }
    }
}

orka_guard_sdk::register!(Odd);
