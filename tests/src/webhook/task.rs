//! Tasks, their steps, and StepActions.

use serde_json::Value;

use super::variables::{Place, variables};
use super::{Params, Refused, is_label, kind_of, list, matches, names, text};

/// What a step that refers to a StepAction must not have, since that has it.
const OF_STEP_ACTIONS: [&str; 8] = [
    "image",
    "command",
    "args",
    "script",
    "workingDir",
    "env",
    "volumeMounts",
    "results",
];

/// A Task, given what its steps may refer to.
pub(super) fn check(spec: &Value, at: &str, known: &Params, refused: &mut Refused) {
    refused.say_if(
        list(&spec["steps"]).next().is_none(),
        at,
        "it has no `steps`",
    );
    refused.unique(names(&spec["volumes"]), &format!("{at}.volumes"));
    check_workspaces(spec, at, refused);
    check_params(&spec["params"], at, refused);
    check_results(&spec["results"], at, refused);
    refused.unique(
        names(&spec["steps"]).filter(|name| !name.is_empty()),
        &format!("{at}.steps"),
    );
    let own: Vec<&str> = names(&spec["results"]).collect();
    for (number, step) in list(&spec["steps"]).enumerate() {
        let at = format!("{at}.steps[{number}]");
        check_step(step, &spec["stepTemplate"], &at, refused);
        check_references(step, known, &at, refused);
        let script = text(&step["script"]);
        refused.only(script, "results", &own, &at);
        let of_step: Vec<&str> = names(&step["results"]).collect();
        refused.only(script, "step.results", &of_step, &at);
        check_results(&step["results"], &at, refused);
    }
    for (number, sidecar) in list(&spec["sidecars"]).enumerate() {
        let at = format!("{at}.sidecars[{number}]");
        refused.say_if(
            sidecar["name"] == "tekton-log-results",
            &at,
            "its name is Tekton's own",
        );
        refused.say_if(text(&sidecar["image"]).is_empty(), &at, "it has no `image`");
        check_script(sidecar, &at, refused);
    }
}

/// A StepAction, which knows no workspaces, volumes or `envFrom`, and no parameters in its script.
pub(super) fn check_step_action(spec: &Value, refused: &mut Refused) {
    let at = "spec";
    refused.say_if(text(&spec["image"]).is_empty(), at, "it has no `image`");
    check_script(spec, at, refused);
    let script = text(&spec["script"]);
    refused.say_if(
        !variables(script, "params").is_empty(),
        at,
        "a parameter in the script of a StepAction",
    );
    check_params(&spec["params"], at, refused);
    check_results(&spec["results"], at, refused);
    check_references(spec, &Params::declared(&spec["params"]), at, refused);
    let own: Vec<&str> = names(&spec["results"]).collect();
    for (field, text, _) in fields(spec) {
        // The webhook looks into the script alone; elsewhere the step would get the text as it is.
        refused.only(&text, "step.results", &own, &format!("{at}.{field}"));
    }
    for mount in list(&spec["volumeMounts"]) {
        let name = text(&mount["name"]);
        let is_alone = matches!(variables(name, "params").as_slice(), [only] if only.whole == name);
        refused.say_if(
            !is_alone,
            at,
            format!("the volume `{name}` is not a parameter alone"),
        );
    }
}

/// Names and mount paths of workspaces, and that steps use those that there are.
fn check_workspaces(spec: &Value, at: &str, refused: &mut Refused) {
    let at = format!("{at}.workspaces");
    refused.unique(names(&spec["workspaces"]), &at);
    let containers = || list(&spec["steps"]).chain([&spec["stepTemplate"]]);
    let mounted = containers().flat_map(|it| list(&it["volumeMounts"]));
    let mut paths: Vec<String> = mounted
        .map(|mount| clean(text(&mount["mountPath"])))
        .collect();
    // Volumes may be mounted at the same place in several steps.
    paths.sort();
    paths.dedup();
    for workspace in list(&spec["workspaces"]) {
        let default = || format!("/workspace/{}", text(&workspace["name"]));
        let path = workspace["mountPath"]
            .as_str()
            .map_or_else(default, str::to_owned);
        paths.push(clean(&path));
    }
    refused.unique(paths.iter().map(String::as_str), &at);
    let declared: Vec<&str> = names(&spec["workspaces"]).collect();
    let users = list(&spec["steps"]).chain(list(&spec["sidecars"]));
    for used in users.flat_map(|user| names(&user["workspaces"])) {
        refused.say_if(
            !declared.contains(&used),
            &at,
            format!("there is no workspace `{used}`"),
        );
    }
    // What the controller replaces; the webhook does not look.
    for (field, text, _) in list(&spec["steps"]).flat_map(fields) {
        refused.only(&text, "workspaces", &declared, &field);
    }
}

fn clean(path: &str) -> String {
    format!(
        "/{}",
        path.split('/')
            .filter(|it| !it.is_empty() && *it != ".")
            .collect::<Vec<_>>()
            .join("/")
    )
}

fn check_step(step: &Value, template: &Value, at: &str, refused: &mut Refused) {
    let has = |member: &str| step.get(member).is_some();
    if has("ref") {
        refused.reference(&step["ref"], at);
        for member in OF_STEP_ACTIONS.into_iter().filter(|member| has(member)) {
            refused.say(at, format!("`{member}` beside `ref`"));
        }
    } else {
        refused.say_if(has("params"), at, "`params` without `ref`");
        let has_image = has("image") || template.get("image").is_some();
        refused.say_if(!has_image, at, "it has no `image`");
        check_script(step, at, refused);
    }
    let name = text(&step["name"]);
    refused.say_if(
        !name.is_empty() && !is_label(name),
        at,
        format!("`{name}` is no DNS label"),
    );
    refused.duration(&step["timeout"], at);
    refused.when(&step["when"], at);
    for mount in list(&step["volumeMounts"]) {
        let path = text(&mount["mountPath"]);
        let is_tektons = path.starts_with("/tekton/") && !path.starts_with("/tekton/home");
        refused.say_if(is_tektons, at, format!("`{path}` is Tekton's own"));
        let is_internal = text(&mount["name"]).starts_with("tekton-internal-");
        refused.say_if(is_internal, at, "a volume has a name of Tekton's own");
    }
    check_on_error(
        &step["onError"],
        &["continue", "stopAndFail", "continueAndFail"],
        at,
        refused,
    );
    for alpha in ["stdoutConfig", "stderrConfig"]
        .into_iter()
        .filter(|member| has(member))
    {
        refused.say(at, format!("`{alpha}` is alpha"));
    }
}

/// What comes after an error; a parameter can say it.
pub(super) fn check_on_error(value: &Value, allowed: &[&str], at: &str, refused: &mut Refused) {
    let said = text(value);
    let is_known = value.is_null() || said.starts_with("$(params") || allowed.contains(&said);
    refused.say_if(!is_known, at, format!("`onError` is {value}"));
}

fn check_script(container: &Value, at: &str, refused: &mut Refused) {
    let has_both = container.get("script").is_some() && container.get("command").is_some();
    refused.say_if(has_both, at, "`script` beside `command`");
    let is_for_windows = text(&container["script"]).trim_start().starts_with("#!win");
    refused.say_if(is_for_windows, at, "scripts for Windows are alpha");
}

/// What a step refers to in each of its fields.
fn check_references(step: &Value, known: &Params, at: &str, refused: &mut Refused) {
    for (field, text, place) in fields(step) {
        let at = format!("{at}.{field}");
        refused.params(&text, known, place, &at);
        refused.only(&text, "context.taskRun", &["name", "namespace", "uid"], &at);
        refused.only(&text, "context.task", &["name", "retry-count"], &at);
        let takes_results = ["env", "command", "args"]
            .iter()
            .any(|it| field.starts_with(it));
        let of_steps = variables(&text, "steps");
        let is_result = |path: &str| matches(path, r"^\$\(steps\.[^.]+\.results\.");
        for variable in of_steps {
            let whole = variable.whole;
            refused.say_if(
                !is_result(&whole),
                &at,
                format!("{whole} is an artifact, which is alpha"),
            );
            refused.say_if(!takes_results, &at, format!("{whole} may not stand here"));
        }
        for path in ["$(step.artifacts.path)", "$(artifacts.path)"] {
            refused.say_if(text.contains(path), &at, format!("{path} is alpha"));
        }
    }
    // Values of parameters are texts, arrays or objects.
    for param in list(&step["params"]) {
        let mut texts = Vec::new();
        texts_of(&param["value"], &mut texts);
        for text in texts {
            refused.params(text, known, Place::Item, &format!("{at}.params"));
        }
    }
}

pub(super) fn texts_of<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts_of(item, found)),
        Value::Object(members) => members.values().for_each(|member| texts_of(member, found)),
        _ => {}
    }
}

/// Each field in which the webhook looks for references.
fn fields(step: &Value) -> Vec<(String, String, Place)> {
    let mut all = Vec::new();
    for member in [
        "name",
        "image",
        "workingDir",
        "script",
        "imagePullPolicy",
        "onError",
    ] {
        all.push((member.to_owned(), text(&step[member]), Place::Text));
    }
    for member in ["command", "args"] {
        let items = list(&step[member]).enumerate();
        all.extend(
            items.map(|(number, it)| (format!("{member}[{number}]"), text(it), Place::Item)),
        );
    }
    for variable in list(&step["env"]) {
        all.push((
            format!("env[{}]", text(&variable["name"])),
            text(&variable["value"]),
            Place::Text,
        ));
    }
    for source in list(&step["envFrom"]) {
        for member in ["configMapRef", "secretRef"] {
            all.push((
                "sources".to_owned(),
                text(&source[member]["name"]),
                Place::Text,
            ));
        }
    }
    for (number, mount) in list(&step["volumeMounts"]).enumerate() {
        for member in ["name", "mountPath", "subPath"] {
            all.push((
                format!("volumeMounts[{number}].{member}"),
                text(&mount[member]),
                Place::Text,
            ));
        }
    }
    all.into_iter()
        .map(|(field, text, place)| (field, text.to_owned(), place))
        .collect()
}

/// Declared parameters, of whatever.
pub(super) fn check_params(params: &Value, at: &str, refused: &mut Refused) {
    let at = format!("{at}.params");
    refused.unique(names(params), &at);
    for param in list(params) {
        let (name, kind) = (text(&param["name"]), kind_of(param));
        let pattern = match kind {
            "string" | "array" => "^[_a-zA-Z][_a-zA-Z0-9.-]*$",
            "object" => "^[_a-zA-Z][_a-zA-Z0-9-]*$",
            other => {
                refused.say(&at, format!("`{name}` is of the type `{other}`"));
                continue;
            }
        };
        refused.say_if(!matches(name, pattern), &at, format!("`{name}` is no name"));
        refused.say_if(
            param.get("enum").is_some(),
            &at,
            format!("the `enum` of `{name}` is alpha"),
        );
        let fits = match &param["default"] {
            Value::Null => true,
            Value::Array(_) => kind == "array",
            Value::Object(_) => kind == "object",
            _ => kind == "string",
        };
        refused.say_if(!fits, &at, format!("the default of `{name}` is no {kind}"));
        check_properties(param, kind, &at, refused);
        for key in param["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|it| it.0)
        {
            refused.say_if(
                !matches(key, pattern),
                &at,
                format!("the key `{key}` of `{name}`"),
            );
            // Else every run has to give it, and the controller ends those that do not.
            let default = param["default"].as_object();
            let lacks = default.is_some_and(|default| !default.contains_key(key));
            refused.say_if(lacks, &at, format!("the default of `{name}` lacks `{key}`"));
        }
    }
}

/// The keys of an object, which are all texts.
fn check_properties(declared: &Value, kind: &str, at: &str, refused: &mut Refused) {
    let name = text(&declared["name"]);
    let properties = declared["properties"].as_object();
    let lacks = kind == "object" && properties.is_none();
    refused.say_if(lacks, at, format!("`{name}` has no `properties`"));
    for (key, property) in properties.into_iter().flatten() {
        let is_text = property.get("type").is_none_or(|kind| kind == "string");
        refused.say_if(!is_text, at, format!("the key `{key}` of `{name}`"));
    }
}

/// Declared results, of a Task, a step or a StepAction.
fn check_results(results: &Value, at: &str, refused: &mut Refused) {
    let at = format!("{at}.results");
    refused.unique(names(results), &at);
    for result in list(results) {
        let (name, kind) = (
            text(&result["name"]),
            result["type"].as_str().unwrap_or("string"),
        );
        let is_name = matches(name, "^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$");
        refused.say_if(!is_name, &at, format!("`{name}` is no name"));
        let is_known = matches!(kind, "string" | "array" | "object");
        refused.say_if(!is_known, &at, format!("`{name}` is of the type `{kind}`"));
        check_properties(result, kind, &at, refused);
        if let Some(value) = result.get("value") {
            let pattern = r"^\$\(steps\.[a-z0-9]([-a-z0-9]*[a-z0-9])?\.results\.[A-Za-z0-9][-A-Za-z0-9_.]*(\[\*\])?\)$";
            let is_result = value.as_str().is_some_and(|value| matches(value, pattern));
            refused.say_if(!is_result, &at, format!("{value} is no result of a step"));
        }
    }
}
