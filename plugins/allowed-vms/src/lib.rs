//! A guard: only these images, and at most so many CPU cores in a namespace.
use orka_guard_sdk::{Decision, Guard, RunFacts, VmRequest, log};

#[derive(Default)]
struct AllowedVms(Vec<String>, Vec<(String, u32)>);

impl Guard for AllowedVms {
    fn configure(text: &str) -> Result<Self, String> {
        let mut rules = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let forms = "a rule is `image PATTERN` or `cores NAMESPACE MOST`";
            let wrong = || format!("line {number}: `{line}`; {forms}");
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [] | ["#", ..] => {}
                ["image", pattern] => rules.0.push(pattern.to_owned()),
                ["cores", name, n] => rules.1.push((name.into(), n.parse().map_err(|_| wrong())?)),
                _ => return Err(wrong()),
            }
        }
        Ok(rules)
    }

    fn vm(&mut self, run: &RunFacts, mut vm: VmRequest) -> Decision<VmRequest> {
        let namespace = run.orka_namespace.as_deref().unwrap_or("-");
        let most = self.1.iter().find(|rule| fits(&rule.0, namespace));
        if !self.0.iter().any(|pattern| fits(pattern, &vm.image)) {
            return Decision::deny(match &self.0.join(", ")[..] {
                "" => "no line `image PATTERN` of its rules allows any image".to_owned(),
                list => format!("image `{}` is not on the list: {list}", vm.image),
            });
        }
        if let Some((name, most)) = most.filter(|rule| vm.cpu_cores.unwrap_or(3) > rule.1) {
            (vm.cpu_cores, vm.vcpus) = (Some(*most), vm.vcpus.and(Some(*most)));
            return Decision::change(vm, format!("the rule `cores {name} {most}` allows no more"));
        } else if most.is_none() && !self.1.is_empty() && vm.deployment.is_none() {
            log(&format!("no `cores` rule fits namespace `{namespace}`"));
        }
        Decision::Allow
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    (pattern.strip_suffix('*')).map_or(pattern == text, |start| text.starts_with(start))
}

orka_guard_sdk::register!(AllowedVms);
