//! A guard: no VM of an image by a tag that moves, nor of the images that its configuration names, one a line.

use orka_guard_sdk::{Decision, Guard, RunFacts, VmRequest};

struct NoLatest {
    denied: Vec<String>,
}

impl Guard for NoLatest {
    fn configure(text: &str) -> Result<Self, String> {
        let denied = text.lines().map(|line| line.trim().to_owned());
        Ok(Self {
            denied: denied.filter(|line| !line.is_empty()).collect(),
        })
    }

    fn vm(&mut self, _run: &RunFacts, vm: VmRequest) -> Decision<VmRequest> {
        // A reference without a tag means `latest`; what is in no registry has no tags.
        let name = vm.image.rsplit_once('/').map(|(_, name)| name);
        if vm.image.ends_with(":latest") || name.is_some_and(|it| !it.contains([':', '@'])) {
            return Decision::deny("`latest` moves; name a tag that stays");
        }
        if self.denied.contains(&vm.image) {
            return Decision::deny("this image is not for builds");
        }
        Decision::Allow
    }
}

orka_guard_sdk::register!(NoLatest);
