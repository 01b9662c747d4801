//! Publishes an event and waits for what the generals make of it.
//!
//! cargo run -p mindos-sdk --example publish -- [http://127.0.0.1:8090]

use std::time::Duration;

use mindos_sdk::model::Status;
use mindos_sdk::proto::{convert, delivery};
use mindos_sdk::{Client, Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8090".to_owned());
    let client = Client::connect(&url)?;

    let event = Event::unique("https://ci.example.com", "com.example.review.requested")
        .kind("review_started")
        .subject("octocat/hello-world/pr/7")
        .repository("octocat/hello-world")
        .json(r#"{"title": "Say hello to the whole world"}"#);
    let (published, deliveries) = client.publish_and_wait(event, Duration::from_secs(60)).await?;

    println!("event {} led to {} deliveries", published.seq, deliveries.len());
    for delivery in deliveries {
        let status = convert::word::<delivery::v1::DeliveryStatus, Status>(delivery.status, "status")?;
        let general = delivery.general.map(|general| format!("{}/{}", general.cluster, general.name));
        let output = delivery.output.map(|output| output.data).unwrap_or_default();
        println!(
            "{} {} by {}: {}",
            delivery.delivery_id,
            status.map_or("?", Status::as_str),
            general.as_deref().unwrap_or("nobody"),
            String::from_utf8_lossy(&output),
        );
    }
    Ok(())
}
