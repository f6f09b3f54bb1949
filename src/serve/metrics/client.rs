//! What is asked of the API server, under client-go's names
//! (`component-base/metrics/prometheus/restclient/metrics.go`). It knows no client.
//! Tests: `tests` beside this.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec};

use super::maker::Maker;

/// Upper bounds of a request's duration, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// One request to the API server, as it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested<'a> {
    /// Its HTTP method.
    pub method: &'a str,
    /// The server's host and port.
    pub host: &'a str,
    /// The answer's status; `None`: there was no answer.
    pub status: Option<u16>,
    /// The time until the answer began; `None` for a watch, whose answer has no end.
    pub took: Option<Duration>,
}

/// Metrics of requests; silent where there is no API server.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
}

impl Requests {
    pub(super) fn new(maker: &Maker<'_>) -> Requests {
        Requests {
            total: maker.bare_counters(
                "rest_client_requests_total",
                "HTTP requests to the API server by status, method and host",
                &["code", "method", "host"],
            ),
            duration: maker.bare_histograms(
                ("rest_client_request_duration_seconds", "Seconds until a request was answered"),
                &["verb", "host"],
                &BUCKETS,
            ),
        }
    }

    /// A request has ended.
    pub(super) fn ended(&self, requested: &Requested<'_>) {
        let code = requested.status.map_or("<error>".to_owned(), |status| status.to_string());
        self.total.with_label_values(&[&*code, requested.method, requested.host]).inc();
        if let Some(took) = requested.took {
            let labels = [requested.method, requested.host];
            self.duration.with_label_values(&labels).observe(took.as_secs_f64());
        }
    }
}
