//! One pass of the reaper, start to finish. This file alone decides order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout_at};

use super::config::{Finished, ReapConfig};
use super::execute::{Execution, Fate};
use super::inventory::Inventory;
use super::plan::{Plan, Rules, Selection, plan};
use super::sightings;
use super::summary::{Done, Summary};
use crate::backend::Cluster;
use crate::console::{Console, Level};
use crate::failure::{Class, Failure, Kind};
use crate::report;
use crate::state::Stop;
use crate::teardown::tell_sign_out;

/// One list may take so long: over 10 s were seen on large clusters.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// Signing out is a courtesy: it never takes long and nothing depends on it.
const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between looks for what appears late.
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// Signs in, lists the cluster, learns who is alive, decides, deletes, looks again, signs out.
///
/// Never fails: what went wrong is in the summary. A signal ends it early; whatever was to be deleted and is not known
/// to be gone is then told as what remains.
pub async fn sweep(
    cluster: &dyn Cluster,
    config: &ReapConfig,
    console: &Console,
    stop: &Stop,
) -> Summary {
    let mut summary = Summary::new(config);
    let deadline = Instant::now() + config.timeout;
    let pass = Pass {
        cluster,
        config,
        console,
        stop,
        deadline,
    };
    let signed_in = pass
        .bounded("sign in", Class::Orka, cluster.sign_in())
        .await;
    match signed_in {
        Err(failure) => summary.failures.push(failure),
        Ok(facts) => {
            summary.cluster(&facts);
            if let Err(failure) = pass.run(&mut summary).await {
                summary.failures.push(failure);
            }
            pass.sign_out().await;
        }
    }
    summary.end(stop.signal());
    summary
}

struct Pass<'a> {
    cluster: &'a dyn Cluster,
    config: &'a ReapConfig,
    console: &'a Console,
    stop: &'a Stop,
    deadline: Instant,
}

impl Pass<'_> {
    async fn run(&self, summary: &mut Summary) -> Result<(), Failure> {
        let started = Instant::now();
        let inventory = self.list().await?;
        let now = Timestamp::now();
        let first_seen = match &self.config.state {
            Some(path) => sightings::load(path)?,
            None => BTreeMap::new(),
        };
        let first_seen = sightings::updated(first_seen, &inventory, now);
        // Only after the cluster was listed: see the module's head.
        let selection = self.selection().await?;
        let rules = Rules {
            selection,
            kept: self.config.kept.clone(),
            include_kept: self.config.include_kept,
            first_seen: match self.config.state {
                Some(_) => first_seen.clone(),
                None => BTreeMap::new(),
            },
            now,
        };
        let mut plan = plan(inventory, &rules);
        if let (Some(path), false) = (&self.config.state, self.config.dry_run) {
            // A full volume costs things without an age a pass. It must not cost everything else its deletion.
            if let Err(failure) = sightings::save(path, first_seen) {
                report::print_warning(self.console, &failure);
            }
        }
        summary.planned(&plan);
        if self.config.dry_run {
            return Ok(());
        }
        loop {
            let had_work = plan.to_delete().next().is_some();
            self.delete(&plan, &rules.selection, summary).await;
            let lingers = started.elapsed() < self.config.linger;
            let is_over = self.stop.signal().is_some() || Instant::now() >= self.deadline;
            // What is left after so many attempts is not going to be deleted by another one.
            if is_over || summary.remains() || !(lingers || had_work) {
                return Ok(());
            }
            let Selection::Runs(_) = &rules.selection else {
                // Who is alive was read once. The next pass has a newer list.
                return Ok(());
            };
            if !had_work {
                self.console
                    .log(Level::Debug, "nothing of it so far; looking again");
                let pause = sleep(LINGER_PAUSE.min(self.config.linger));
                tokio::select! {
                    () = pause => {}
                    () = self.stop.stopped() => return Ok(()),
                }
            }
            plan = self.look_again(&rules).await?;
            summary.planned(&plan);
        }
    }

    /// Lists the cluster once more: what was deleted must be gone, and a deployment that was under way when its step
    /// was killed may have appeared.
    async fn look_again(&self, rules: &Rules) -> Result<Plan, Failure> {
        let inventory = self.list().await.map_err(|mut failure| {
            failure.message = format!(
                "the cluster cannot be listed again, so something may have appeared late: {}",
                failure.message
            );
            failure
        })?;
        let rules = Rules {
            now: Timestamp::now(),
            ..rules.clone()
        };
        Ok(plan(inventory, &rules))
    }

    async fn delete(&self, plan: &Plan, selection: &Selection, summary: &mut Summary) {
        let names: Vec<String> = plan.to_delete().map(str::to_owned).collect();
        let unless_in_use = match selection {
            // Of these everything goes.
            Selection::Runs(_) => BTreeSet::new(),
            Selection::Finished { .. } => plan.configs_to_delete().map(str::to_owned).collect(),
        };
        let execution = Execution {
            cluster: self.cluster,
            console: self.console,
            stop: self.stop,
            deadline: self.deadline,
            parallel: self.config.parallel,
            unless_in_use,
        };
        for (name, fate) in execution.delete(names).await {
            let done = match fate {
                Fate::Deleted => Done::Deleted,
                Fate::AlreadyGone => Done::AlreadyGone,
                Fate::InUse => {
                    summary.in_use(&name);
                    continue;
                }
                Fate::Remains(failure) => Done::Remains {
                    command: self.cluster.removal_command(&name),
                    failure,
                },
            };
            summary.done(&name, done);
        }
    }

    async fn list(&self) -> Result<Inventory, Failure> {
        let listed = self
            .bounded("list", Class::Orka, self.cluster.list())
            .await?;
        Ok(Inventory::new(&self.config.prefix, listed))
    }

    async fn selection(&self) -> Result<Selection, Failure> {
        let source = match &self.config.finished {
            Finished::Runs(runs) => {
                let hashes: BTreeSet<String> = runs.iter().map(|run| run.hash.clone()).collect();
                return Ok(Selection::Runs(hashes));
            }
            Finished::WithoutLivePods(source) => source,
        };
        let live = self
            .bounded(
                "live pods",
                Class::Config,
                source.read(self.config.grace, self.config.allow_no_pods),
            )
            .await?;
        if live.told == 0 && !self.config.allow_no_pods {
            return Err(Failure::config(format!(
                "{source} tells of no pod at all, so everything would look dead; nothing was deleted"
            ))
            .with_hint("look why the list is empty, or give `--allow-no-pods` where that is so on purpose"));
        }
        Ok(Selection::Finished {
            live,
            grace: self.config.grace,
        })
    }

    /// One question with a limit of its own, given up on a signal and at the deadline.
    async fn bounded<T>(
        &self,
        what: &str,
        class: Class,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit = self.deadline.min(Instant::now() + LIST_TIMEOUT);
        tokio::select! {
            biased;
            () = self.stop.stopped() => Err(Failure::cancelled().reworded("the reaper is being stopped; nothing more is deleted")),
            answer = timeout_at(limit, work) => answer.unwrap_or_else(|_| {
                Err(Failure::new(
                    Kind::TimedOut,
                    class,
                    "reap.timed-out",
                    format!("`{what}` was not answered in time"),
                ))
            }),
        }
    }

    async fn sign_out(&self) {
        let limit = Instant::now() + SIGN_OUT_TIMEOUT;
        match timeout_at(limit, self.cluster.sign_out()).await {
            Ok(Ok(outcome)) => tell_sign_out(self.console, &outcome),
            Ok(Err(failure)) => self.console.warn(&format!("signing out failed: {failure}")),
            Err(_) => self
                .console
                .warn("signing out failed: Orka did not answer in time"),
        }
    }
}
