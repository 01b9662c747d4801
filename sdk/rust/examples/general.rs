//! A general in Rust, with a stream of its own: counts the words of each event.
//!
//! cargo run -p mindos-sdk --example general -- [http://127.0.0.1:8091] [cluster]

use mindos_sdk::{Failure, General, Options, Output, Work, general_config, serve};

struct WordCount;

impl General for WordCount {
    async fn process(&self, work: Work) -> Result<Output, Failure> {
        let data = work.event.bytes();
        let text = std::str::from_utf8(&data).map_err(|_| Failure::poison("the event's data is not text"))?;
        let words = text.split_whitespace().count();
        println!("{} ({}): {words} words", work.job_id(), work.event.ty());
        Ok(Output::json(format!(r#"{{"words": {words}}}"#)))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "http://127.0.0.1:8091".to_owned());
    let cluster = args.next().unwrap_or_else(|| "local".to_owned());
    let options = Options::new(url, &cluster, "word-count-1")?;

    let shutdown = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let counts = serve(WordCount, general_config("general-purpose-general", 8)?, options, shutdown).await?;

    println!("{} deliveries settled", counts.settled);
    Ok(())
}
