//! Shows every change to a delivery as it happens.
//!
//! cargo run -p mindos-sdk --example watch -- [http://127.0.0.1:8090]

use mindos_sdk::model::Status;
use mindos_sdk::proto::{convert, delivery};
use mindos_sdk::{Client, DeliveryFeed};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8090".to_owned());
    let mut watch = Client::connect(&url)?.watch_deliveries(DeliveryFeed::default(), 0);
    loop {
        let delivery = watch.next().await?;
        let status = convert::word::<delivery::v1::DeliveryStatus, Status>(delivery.status, "status")?;
        let general = delivery.general.map(|general| format!("{}/{}", general.cluster, general.name));
        println!(
            "#{} {} {} {} {}",
            delivery.seq,
            delivery.delivery_id,
            status.map_or("?", Status::as_str),
            general.as_deref().unwrap_or("-"),
            delivery.lane,
        );
    }
}
