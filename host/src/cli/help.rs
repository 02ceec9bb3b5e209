//! What stands below the flags in `--help`.

pub(super) const AFTER_HELP: &str = "\
Examples:
  Build with the bundled policy on Orka 2.x:
    orka-step run --orka-api http://10.221.188.20 --orka-credentials /creds/orka \\
      --ssh-credentials /creds/ssh --workspace . -p base-image=Sonoma.orkasi -p script='make ipa'

  The same script in several VMs at once, or wherever a VM comes up (`matrix` and `retry-elsewhere` are bundled too):
    orka-step run --plugin matrix -p images=$'Sonoma.orkasi\\nVentura.orkasi' …

  Use your own policy, allowed by your own grants:
    orka-step run --plugin ./mine.wasm --grants grants.toml …

  See the whole job without a Mac:
    orka-step demo

Exit codes of `run`: the script's own status if it ran to an end
(128 + N if signal N ended it), otherwise
  2 usage            the command line is wrong
  130/143 SIGINT/SIGTERM
  210 internal       a bug of ours
  211 config         files, credentials, parameters or grants are wrong
  212 plugin-rejected  it cannot be loaded or is not granted what it asks for
  213 plugin-failed  it failed, trapped or broke a limit
  214 orka           the API failed
  215 no-capacity    no node had room within the wait
  216 ssh            the VM could not be reached, logged into, or was lost
  217 files          the workspace or a transfer failed
  218 timed-out      the run's own deadline
  219 leftovers      something it made may still exist; it is named";

pub(super) const DOCTOR_HELP: &str = "\
Statuses:
  ok       as a run needs it
  warn     a run would start, but someone may want to act
  fail     a run would end for this; the hint says what to mend
  skipped  not checked, and why: it follows from a failure, is not used, or shows only in a run

Examples:
  Before the first build on a cluster:
    orka-step doctor --orka-api http://10.221.188.20 --orka-credentials /creds/orka \\
      --ssh-credentials /creds/ssh --image Sonoma.orkasi

  Why does this run not start:
    orka-step doctor --plugin ./mine.wasm --grants grants.toml … -p base-image=Sonoma.orkasi -p cpu-count=6

  What failed, for a script:
    orka-step doctor … --json | jq -r '.checks[] | select(.status == \"fail\") | .name'

Exit code: 0 if a run would start, otherwise the one that the run would end with, such as 211 for credentials, 212 for
the plugin, 214 for the endpoint, 215 where no node has room. `orka-step --help` lists them.";

pub(super) const TASK_HELP: &str = "\
The file, with a mark that no value can hold by accident, such as `$(context.taskRun.uid)`:
  #!/usr/local/bin/orka-step task
  ## MARK sections 4
  ## MARK set timeout
  50m
  ## MARK param base-image
  Sonoma.orkasi
  ## MARK ignored docker-image

  ## MARK script
  the build script, to the end of the file

Sections:
  param NAME    a parameter of the plugin; left out where the plugin has none of the name
  params        further parameters, NAME=VALUE one a line or a JSON object; each must be one of the plugin's
  set NAME      the flag `--NAME` of `run`; not given where the text is empty
  grants        grants in TOML, instead of `--grants`
  ignored NAME  accepted for the sake of older Tasks; told where it is not empty
  script        the build script

Their number keeps a value from adding sections: with one more or less, or one twice, nothing is run.

Exit code: as of `run`.";

pub(super) const REAP_HELP: &str = "\
Ours is what is named `PREFIX-<8 hex digits>-<8 hex digits>-<n>`, and nothing else is ever touched. Whether a run is
over must be said in one of two ways; doubt always means that a VM is left alone, and the summary says why.

  --run UID          the caller knows it: everything of that run goes, whatever its age
  --live-pods LIST   everything goes that has no live pod, whose run has none, and that is older than `--grace`

Examples:
  In a `finally` Task, with nothing but the Orka credentials and the run's UID:
    orka-step reap --run \"$RUN_UID\"        # from `$(context.pipelineRun.uid)`

  In a CronJob, whose service account may list pods (verbs `list` on `pods` of the core API group; with
  `--tekton-runs` on `pipelineruns` and `taskruns` of `tekton.dev` as well):
    orka-step reap --live-pods kubernetes --grace 30m

  By hand: first what would be deleted and why, then do it:
    kubectl get pods --all-namespaces -o json > pods.json
    orka-step reap --live-pods pods.json --dry-run
    orka-step reap --live-pods pods.json

Clusters of Kubernetes that share an Orka need a `--vm-prefix` each: the pods of one say nothing of the other's VMs.

Exit code: 0 if nothing is left that was to be deleted; 219 if something of it may still exist, which is then named;
211 for wrong settings or where live pods cannot be known, and 214 where Orka failed: nothing was deleted then that is
not in the summary; 130 or 143 after a signal.";
