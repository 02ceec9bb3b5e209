//! The report as a page for people: one file, no scripts, nothing fetched.

use serde_json::Value;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .75rem .25rem 0;border-bottom:1px solid #ddd;\
vertical-align:top}code{font-size:.9em}.bar{background:#4a7;height:.6rem;min-width:1px}.bad{color:#a00}";

/// Renders the report's JSON.
pub fn render(report: &Value) -> String {
    let outcome = text(&report["outcome"]);
    let class = if outcome == "succeeded" {
        ""
    } else {
        " class=\"bad\""
    };
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>orka-step: {outcome}</title><style>{STYLE}</style>\
         <h1{class}>{outcome}</h1><table>"
    );
    for (label, value) in [
        ("exit code", &report["exitCode"]),
        ("the script's exit status", &report["exitStatus"]),
        ("started", &report["startedAt"]),
        ("duration, ms", &report["durationMs"]),
        ("plugin", &report["plugin"]["name"]),
        ("plugin version", &report["plugin"]["version"]),
        ("plugin digest", &report["plugin"]["digest"]),
        ("VMs deployed", &report["vmsDeployed"]),
        ("token", &report["signOut"]),
        ("artifacts digest", &report["artifacts"]["digest"]),
    ] {
        if !value.is_null() {
            page.push_str(&format!("<tr><th>{label}<td>{}", text(value)));
        }
    }
    page.push_str("</table>");
    failures(&mut page, &report["failures"]);
    leftovers(&mut page, &report["leftovers"]);
    guards(&mut page, &report["guards"]);
    host_keys(&mut page, &report["hostKeys"]);
    kept(&mut page, &report["kept"]);
    phases(&mut page, &report["phases"]);
    artifacts(&mut page, &report["artifacts"]["files"]);
    page.push_str("</html>\n");
    page
}

fn failures(page: &mut String, failures: &Value) {
    for failure in items(failures) {
        page.push_str(&format!(
            "<h2 class=\"bad\">{}</h2><p><code>{}</code>",
            text(&failure["message"]),
            text(&failure["code"])
        ));
        for cause in items(&failure["causes"]) {
            page.push_str(&format!("<p>caused by: {}", text(cause)));
        }
        if !failure["hint"].is_null() {
            page.push_str(&format!("<p>hint: {}", text(&failure["hint"])));
        }
    }
}

fn leftovers(page: &mut String, leftovers: &Value) {
    for leftover in items(leftovers) {
        page.push_str(&format!(
            "<h2 class=\"bad\">{} may still exist</h2><p>{}<p>delete it with <code>{}</code>",
            text(&leftover["name"]),
            text(&leftover["reason"]),
            text(&leftover["command"])
        ));
    }
}

fn guards(page: &mut String, guards: &Value) {
    for guard in items(guards) {
        page.push_str(&format!(
            "<h2>Guard {}</h2><p><code>{}</code><p>{} questions answered with: as it is",
            text(&guard["name"]),
            text(&guard["digest"]),
            text(&guard["allowed"])
        ));
        let decisions = items(&guard["decisions"]);
        if decisions.is_empty() {
            continue;
        }
        page.push_str("<table><tr><th>about<th>decision<th>reason<th>changes");
        for decision in decisions {
            let class = if decision["decision"] == "changed" {
                ""
            } else {
                " class=\"bad\""
            };
            let changes: Vec<String> = items(&decision["changes"]).iter().map(text).collect();
            page.push_str(&format!(
                "<tr><td>{}<td{class}>{}<td>{}<td>{}",
                text(&decision["subject"]),
                text(&decision["decision"]),
                text(&decision["reason"]),
                changes.join("<br>")
            ));
        }
        page.push_str("</table>");
    }
}

fn host_keys(page: &mut String, keys: &Value) {
    let keys = items(keys);
    if keys.is_empty() {
        return;
    }
    page.push_str("<h2>Host keys</h2><table><tr><th>host<th>key<th>verified");
    for key in keys {
        let class = if key["verified"] == "unchecked" {
            " class=\"bad\""
        } else {
            ""
        };
        page.push_str(&format!(
            "<tr><td>{}<td><code>{}</code><td{class}>{}",
            text(&key["host"]),
            text(&key["fingerprint"]),
            text(&key["verified"])
        ));
    }
    page.push_str("</table>");
}

fn kept(page: &mut String, kept: &Value) {
    for vm in items(kept) {
        page.push_str(&format!(
            "<h2>VM {} is kept until {}</h2><p>{}<p>log in with <code>{}</code>",
            text(&vm["name"]),
            text(&vm["expires"]),
            text(&vm["reason"]),
            text(&vm["login"])
        ));
    }
}

fn phases(page: &mut String, phases: &Value) {
    let phases = items(phases);
    if phases.is_empty() {
        return;
    }
    let longest = phases
        .iter()
        .filter_map(|phase| phase["elapsedMs"].as_u64())
        .max()
        .unwrap_or(1)
        .max(1);
    page.push_str("<h2>Phases</h2><table><tr><th>phase<th>ended<th>ms<th>");
    for phase in phases {
        let elapsed = phase["elapsedMs"].as_u64().unwrap_or(0);
        page.push_str(&format!(
            "<tr><td>{}<td>{}<td>{elapsed}<td style=\"width:40%\"><div class=\"bar\" style=\"width:{}%\"></div>",
            text(&phase["title"]),
            text(&phase["ending"]),
            elapsed * 100 / longest
        ));
    }
    page.push_str("</table>");
}

fn artifacts(page: &mut String, files: &Value) {
    let files = items(files);
    if files.is_empty() {
        return;
    }
    page.push_str("<h2>Artifacts</h2><table><tr><th>file<th>bytes<th>SHA-256");
    for file in files {
        page.push_str(&format!(
            "<tr><td>{}<td>{}<td><code>{}</code>",
            text(&file["path"]),
            text(&file["size"]),
            text(&file["sha256"])
        ));
    }
    page.push_str("</table>");
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value as text that cannot be taken for markup: names of files and messages come from anywhere.
fn text(value: &Value) -> String {
    let plain = value
        .as_str()
        .map_or_else(|| value.to_string(), ToOwned::to_owned);
    plain
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_report_becomes_markup() {
        let report = serde_json::json!({
            "outcome": "infra-failed", "exitCode": 216, "failures": [{"code": "x", "message": "<script>&\"", "causes": []}],
            "phases": [{"title": "<b>", "ending": "done", "elapsedMs": 5}], "leftovers": [], "artifacts": {"files": []}
        });
        let page = render(&report);
        assert!(page.contains("&lt;script&gt;&amp;&quot;"));
        assert!(!page.contains("<script>") && !page.contains("<b>"));
    }

    #[test]
    fn what_guards_decided_is_on_the_page_and_becomes_no_markup() {
        let report = serde_json::json!({
            "outcome": "denied", "exitCode": 212, "failures": [], "phases": [], "leftovers": [], "artifacts": {"files": []},
            "guards": [{
                "name": "ours", "digest": "sha256:ab", "allowed": 2, "decisions": [
                    {"about": "vm", "subject": "image `x`", "decision": "denied", "reason": "<i>no", "changes": ["<u>"]}
                ]
            }]
        });
        let page = render(&report);
        for said in [
            "Guard ours",
            "sha256:ab",
            "image `x`",
            "&lt;i&gt;no",
            "&lt;u&gt;",
        ] {
            assert!(page.contains(said), "no `{said}`: {page}");
        }
    }
}
