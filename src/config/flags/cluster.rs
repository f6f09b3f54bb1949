//! Flags about the cluster: where its state comes from and how it is asked for.
//! Tests: `config::tests`.

use super::{Flag, boolean_map, duration, int32, text};
use crate::config::forms;

pub(super) const CLUSTER: &[Flag] = &[
    Flag::value(
        "config-sync-period",
        "DURATION",
        "Accepted, greater than 0: a watch that misses something lists anew by itself, and what did not change is not handed on again",
        |g, v| duration(&mut g.wire.config_sync_period, v),
    )
    .default("15m0s")
    .feeds(&["configSyncPeriod"]),
    Flag::value(
        "feature-gates",
        "NAME=BOOL,...",
        "Feature gates of Kubernetes v1.36; those of other components are accepted and do nothing",
        |g, v| boolean_map(&mut g.wire.feature_gates, v),
    )
    .feeds(&["featureGates"]),
    Flag::value(
        "hostname-override",
        "NAME",
        "This node's name in the cluster; without it the machine's hostname in lower case",
        |g, v| match v.trim() {
            "" if !v.is_empty() => Err("a name that is not blank".into()),
            // The reference heeds an empty one as little as none at all.
            "" => Ok(()),
            name => text(&mut g.wire.hostname_override, &name.to_lowercase()),
        },
    )
    .feeds(&["hostnameOverride"])
    .beside_file(),
    Flag::value(
        "kube-api-burst",
        "NUMBER",
        "Requests to the API server that may go out at once, above --kube-api-qps",
        |g, v| int32(&mut g.wire.client_connection.burst, v),
    )
    .default("10")
    .feeds(&["clientConnection.burst"]),
    Flag::value(
        "kube-api-content-type",
        "TYPE",
        "Content type asked of the API server; where protobuf can't be spoken, JSON is",
        |g, v| text(&mut g.wire.client_connection.content_type, v),
    )
    .default("application/vnd.kubernetes.protobuf")
    .feeds(&["clientConnection.contentType"]),
    Flag::value(
        "kube-api-qps",
        "NUMBER",
        "Requests a second to the API server; negative is without limit",
        |g, v| {
            g.wire.client_connection.qps = Some(forms::float32(v)?);
            Ok(())
        },
    )
    .default("5")
    .feeds(&["clientConnection.qps"]),
    Flag::value(
        "kubeconfig",
        "FILE",
        "Credentials and address of the API server; without it those of the pod this runs in",
        |g, v| text(&mut g.wire.client_connection.kubeconfig, v),
    )
    .feeds(&["clientConnection.kubeconfig"]),
    Flag::value(
        "manifests",
        "DIR",
        "Take Services, EndpointSlices, the Node and ServiceCIDRs from the YAML and JSON files in this folder instead of an API server, and follow their changes",
        |g, v| {
            g.errand.manifests = Some(v.into());
            if v.is_empty() { Err("a folder".into()) } else { Ok(()) }
        },
    )
    .beside_file(),
    Flag::value(
        "master",
        "URL",
        "Address of the API server, over that of the kubeconfig",
        |g, v| {
            g.errand.master = Some(v.to_owned()).filter(|v| !v.is_empty());
            Ok(())
        },
    )
    .beside_file(),
];
