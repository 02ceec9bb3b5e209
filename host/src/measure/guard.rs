//! What a guard costs before it is asked, and each time that it is.

use serde_json::json;

use super::{SLOW_STEPS, load_code, median, median_of, micros, ms, timed, write_rows};
use crate::aot::{self, Bounds, CacheKey};
use crate::console::{Console, bytes};
use crate::engine;
use crate::failure::Failure;
use crate::guard::{Guard, GuardFile, GuardSource};
use crate::limits::Limits;
use crate::mask::Masker;

/// Measures a guard with its configuration.
pub(super) async fn bench(
    source: &GuardSource,
    file: &GuardFile,
    repetitions: u32,
    as_json: bool,
) -> Result<String, Failure> {
    let few = (repetitions / SLOW_STEPS).max(3);
    let engine = engine::engine()?;
    let compile = || file.compile(&engine, &Bounds::default());
    let key = CacheKey::random();
    let sealed = aot::sealed(file.code(&engine)?, &file.digest, &key);
    let load = || load_code(&engine, &file.digest, &sealed, &key);
    let component = load()?;
    let linked = file.link(&engine, &component)?;
    let (console, _) = Console::captured(Masker::default());
    let start = async || {
        let config = source.config_text();
        Guard::start(file, linked.clone(), Limits::default(), &console, config).await
    };
    let mut guard = start().await?;
    let question = median_of(repetitions, async || {
        let asked = async {
            let unanswered = |problem| Failure::plugin_rejected("guard.failed", problem);
            guard.answers().await.map_err(unanswered)
        };
        timed(asked).await
    })
    .await?;
    let read = median(repetitions, || source.load())?;
    let load_code = median(repetitions, load)?;
    let link = median(repetitions, || file.link(&engine, &component))?;
    let start = median_of(repetitions, async || {
        timed(async { start().await.map(drop) }).await
    })
    .await?;
    let compile = median(few, compile)?;
    let version = file.version.as_deref().unwrap_or_default();
    if as_json {
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        let value = json!({
            "guard": file.name, "version": version, "digest": file.digest,
            "bytes": file.bytes.len(), "codeBytes": sealed.len(), "target": plugin_engine::target(),
            "repetitions": repetitions,
            "readMs": ms(read), "loadCodeMs": ms(load_code), "linkMs": ms(link), "startMs": ms(start),
            "questionUs": question.as_secs_f64() * 1e6, "compileMs": ms(compile),
        });
        return Ok(format!("{value:#}\n"));
    }
    let mut text = format!(
        "guard {} {version} ({}): {}, code {}; medians of {repetitions} for {}\n",
        file.name,
        file.digest,
        bytes(file.bytes.len() as u64),
        bytes(sealed.len() as u64),
        plugin_engine::target(),
    );
    let rows = [
        (
            "read and check",
            ms(read),
            "the file, its digest and its world",
        ),
        (
            "load the code",
            ms(load_code),
            "compiled ahead of time: checked and mapped",
        ),
        ("link", ms(link), "with its log"),
        ("start", ms(start), "an instance, and its configuration"),
        ("a question", micros(question), "about a VM, there and back"),
        (
            "compile",
            ms(compile),
            "what is saved by doing it ahead of time",
        ),
    ];
    write_rows(&mut text, &rows);
    Ok(text)
}
