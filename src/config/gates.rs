//! Feature gates: the names Kubernetes v1.36 knows, and which of them are locked.
//! Clusters give one list of gates to all components, so gates of others are accepted and have no
//! effect here, which is said; of the proxy's own, `ComponentFlagz` and `ComponentStatusz` switch pages
//! off, `WatchListClient` streamed lists. Source of the names:
//! `test/compatibility_lifecycle/reference/feature_list.md` of Kubernetes, as it was early in the
//! v1.36 cycle: gates added late in it are missing. Tests: below.

use std::collections::BTreeMap;

/// Gates that concern a node's proxy; told when an unknown one is given. `AllAlpha` and `AllBeta`
/// stand for groups.
const OF_THE_PROXY: [&str; 14] = [
    "AllAlpha",
    "AllBeta",
    "ComponentFlagz",
    "ComponentStatusz",
    "ContextualLogging",
    "DisableNodeKubeProxyVersion",
    "InformerResourceVersion",
    "LoggingAlphaOptions",
    "LoggingBetaOptions",
    "MultiCIDRServiceAllocator",
    "NFTablesProxyMode",
    "PreferSameTrafficDistribution",
    "WatchList",
    "WatchListClient",
];

/// Gates that are on and can't be turned off any more.
const LOCKED_ON: &str = "
APIServerTracing AggregatedDiscoveryRemoveBetaType AllowOverwriteTerminationGracePeriodSeconds
AnonymousAuthConfigurableEndpoints AnyVolumeDataSource AuthorizeNodeWithSelectors
AuthorizeWithSelectors BtreeWatchCache CPUManagerPolicyOptions CRDValidationRatcheting
CSIServiceAccountTokenSecrets ConsistentListFromCache CustomResourceFieldSelectors
DisableAllocatorDualWrite DynamicResourceAllocation ExecProbeTimeout HonorPVReclaimPolicy
ImageMaximumGCAge InPlacePodVerticalScaling JobBackoffLimitPerIndex JobManagedBy
JobPodReplacementPolicy JobSuccessPolicy KubeletCgroupDriverFromCRI KubeletFineGrainedAuthz
KubeletTracing LogarithmicScaleDown MatchLabelKeysInPodAffinity MultiCIDRServiceAllocator
NFTablesProxyMode NodeInclusionPolicyInPodTopologySpread NodeSwap OrderedNamespaceDeletion
PodLifecycleSleepAction PodLifecycleSleepActionAllowZero PodObservedGenerationTracking
PodSchedulingReadiness PreferSameTrafficDistribution RecoverVolumeExpansionFailure
RecursiveReadOnlyMounts RelaxedDNSSearchValidation RelaxedEnvironmentVariableValidation
ResilientWatchCacheInitialization RetryGenerateName SchedulerQueueingHints
SeparateTaintEvictionController ServiceAccountTokenJTI ServiceAccountTokenNodeBinding
ServiceAccountTokenNodeBindingValidation ServiceAccountTokenPodNodeInfo SidecarContainers
StreamingCollectionEncodingToJSON StreamingCollectionEncodingToProtobuf
StructuredAuthenticationConfiguration SupplementalGroupsPolicy SystemdWatchdog
TopologyManagerPolicyOptions VolumeAttributesClass WinDSR WinOverlay
";

/// Gates that can be turned either way.
const FREE: &str = "
APIResponseCompression APIServerIdentity APIServingWithRoutine AllowDNSOnlyNodeCSR
AllowInsecureKubeletCertificateSigningRequests AllowParsingUserUIDFromCertAuth
AllowUnsafeMalformedObjectDeletion AtomicFIFO AuthorizePodWebsocketUpgradeCreatePermission
CBORServingAndStorage CPUManagerPolicyAlphaOptions CPUManagerPolicyBetaOptions
CRDObservedGenerationTracking CSIVolumeHealth ChangeContainerStatusOnKubeletRestart
ClearingNominatedNodeNameAfterBinding ClientsAllowCBOR ClientsPreferCBOR
CloudControllerManagerWatchBasedRoutesReconciliation CloudControllerManagerWebhook
ClusterTrustBundle ClusterTrustBundleProjection ConcurrentWatchObjectDecode
ConstrainedImpersonation ContainerCheckpoint ContainerRestartRules ContainerStopSignals
CoordinatedLeaderElection CrossNamespaceVolumeDataSource CustomCPUCFSQuotaPeriod DRAAdminAccess
DRAConsumableCapacity DRADeviceBindingConditions DRADeviceTaintRules DRADeviceTaints
DRAExtendedResource DRAPartitionableDevices DRAPrioritizedList DRAResourceClaimDeviceStatus
DRASchedulerFilterTimeout DeclarativeValidation DeclarativeValidationTakeover
DeploymentReplicaSetTerminatingReplicas DetectCacheInconsistency DisableCPUQuotaWithExclusiveCPUs
EnvFiles EventedPLEG ExternalServiceAccountTokenSigner GangScheduling GenericWorkload
GitRepoVolumeDriver GracefulNodeShutdown GracefulNodeShutdownBasedOnPodPriority
HPAConfigurableTolerance HPAScaleToZero HostnameOverride ImageVolume ImageVolumeWithDigest
InOrderInformers InOrderInformersBatchProcess InPlacePodLevelResourcesVerticalScaling
InPlacePodVerticalScalingAllocatedStatus InPlacePodVerticalScalingExclusiveCPUs
InPlacePodVerticalScalingExclusiveMemory KMSv1 KubeletCrashLoopBackOffMax
KubeletEnsureSecretPulledImages KubeletInUserNamespace KubeletPSI
KubeletPodResourcesDynamicResources KubeletPodResourcesGet KubeletPodResourcesListUseActivePods
KubeletRegistrationGetOnExistsOnly KubeletSeparateDiskGC
KubeletServiceAccountTokenForCredentialProviders ListFromCacheSnapshot
LocalStorageCapacityIsolationFSQuotaMonitoring MatchLabelKeysInPodTopologySpread
MatchLabelKeysInPodTopologySpreadSelectorMerge MaxUnavailableStatefulSet MemoryQoS
MutableCSINodeAllocatableCount MutablePVNodeAffinity MutablePodResourcesForSuspendedJobs
MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy NodeDeclaredFeatures
NodeLogQuery NominatedNodeNameForExpectation OpenAPIEnums OpportunisticBatching
PodAndContainerStatsFromCRI PodCertificateRequest PodDeletionCost PodLevelResources
PodLogsQuerySplitStreams PodReadyToStartContainersCondition PodTopologyLabelsAdmission
PortForwardWebsockets PreventStaticPodAPIReferences ProcMountType QOSReserved
ReduceDefaultCrashLoopBackOffDecay RelaxedServiceNameValidation ReloadKubeletServerCertificateFile
RemoteRequestHeaderUID ResourceHealthStatus ResourceHealthStatusMessage
RestartAllContainersOnContainerExits RotateKubeletServerCertificate RuntimeClassInImageCriApi
SELinuxChangePolicy SELinuxMount SELinuxMountReadWriteOncePod SchedulerAsyncAPICalls
SchedulerAsyncPreemption SchedulerPopFromBackoffQ SeparateCacheWatchRPC
ServiceAccountNodeAudienceRestriction SizeBasedListCostEstimate
StatefulSetSemanticRevisionComparison StorageCapacityScoring StorageNamespaceIndex
StorageVersionAPI StorageVersionHash StorageVersionMigrator StrictIPCIDRValidation
StructuredAuthenticationConfigurationEgressSelector StructuredAuthenticationConfigurationJWKSMetrics
TaintTolerationComparisonOperators TokenRequestServiceAccountUIDValidation
TopologyManagerPolicyAlphaOptions TopologyManagerPolicyBetaOptions
TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation
UnknownVersionInteroperabilityProxy UnlockWhileProcessingFIFO UserNamespacesHostNetworkSupport
UserNamespacesSupport VolumeLimitScaling WatchCacheInitializationPostStartHook
WindowsCPUAndMemoryAffinity WindowsGracefulNodeShutdown WindowsHostNetwork
";

/// Gates that do something here, or stand for a group.
const WITH_EFFECT: [&str; 5] =
    ["AllAlpha", "AllBeta", "ComponentFlagz", "ComponentStatusz", "WatchListClient"];

/// Gates that tell what this proxy does: name, stage as `kubernetes_feature_enabled` spells it
/// (empty: GA), and whether each is on where nothing is said of it. Source: as above.
const TOLD: [(&str, &str, bool); 6] = [
    ("ComponentFlagz", "ALPHA", true),
    ("ComponentStatusz", "ALPHA", true),
    ("MultiCIDRServiceAllocator", "", true),
    ("NFTablesProxyMode", "", true),
    ("PreferSameTrafficDistribution", "", true),
    ("WatchListClient", "BETA", true),
];

/// The gates that tell what this proxy does, with what was asked for: name, stage, whether it is on.
pub fn told(asked: &BTreeMap<String, bool>) -> [(&'static str, &'static str, bool); 6] {
    TOLD.map(|(name, stage, _)| (name, stage, is_on(asked, name)))
}

/// Whether a gate is on: as it was asked for itself, else as all of its stage were, else as it is
/// where nothing is said. What has no effect here is as it is, whatever was asked for.
pub fn is_on(asked: &BTreeMap<String, bool>, name: &str) -> bool {
    let told = TOLD.into_iter().find(|(told, ..)| *told == name);
    let (stage, on) = told.map_or(("", false), |(_, stage, on)| (stage, on));
    if !WITH_EFFECT.contains(&name) {
        return on;
    }
    let group = match stage {
        "ALPHA" => "AllAlpha",
        "BETA" => "AllBeta",
        _ => "",
    };
    asked.get(name).or_else(|| asked.get(group)).copied().unwrap_or(on)
}

/// What to say of a known gate that was set and does nothing here. Those locked on are on here
/// too, so there is nothing to say.
pub(super) fn note(name: &str) -> Option<String> {
    let locked = LOCKED_ON.split_ascii_whitespace().any(|known| known == name);
    (!locked && !WITH_EFFECT.contains(&name))
        .then(|| format!("feature gate {name} is known and has no effect on kube-proxy"))
}

/// Whether a gate may be turned this way; an error is a sentence.
pub(super) fn check(name: &str, on: bool) -> Result<(), String> {
    let among = |names: &str| names.split_ascii_whitespace().any(|known| known == name);
    if among(LOCKED_ON) {
        return if on { Ok(()) } else { Err("the gate is locked to true".into()) };
    }
    if OF_THE_PROXY.contains(&name) || among(FREE) {
        return Ok(());
    }
    let known = OF_THE_PROXY.join(", ");
    Err(format!("unknown gate; known are {known}, and those of the other components"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_known_free_or_locked() {
        assert_eq!(check("WatchListClient", false), Ok(()));
        assert_eq!(check("AllAlpha", true), Ok(()));
        assert_eq!(check("SidecarContainers", true), Ok(()));
        assert!(check("NFTablesProxyMode", false).is_err_and(|e| e.contains("locked to true")));
        assert!(check("Nonsense", true).is_err_and(|e| e.contains("known are AllAlpha")));
        assert!(check("", true).is_err());
        assert_eq!(note("ComponentFlagz"), None);
        assert_eq!(note("NFTablesProxyMode"), None);
        assert!(note("KubeletPSI").is_some_and(|said| said.contains("no effect")));
    }

    #[test]
    fn told_gates_are_known_and_as_asked_for() {
        let asked =
            BTreeMap::from([("ComponentFlagz".into(), false), ("WatchListClient".into(), false)]);
        let told = told(&asked);
        assert!(told.iter().all(|(name, ..)| check(name, true).is_ok()));
        assert!(told.contains(&("ComponentFlagz", "ALPHA", false)));
        assert!(told.contains(&("WatchListClient", "BETA", false)));
        assert!(told.contains(&("NFTablesProxyMode", "", true)));
    }

    #[test]
    fn a_gate_goes_with_its_stage_unless_it_is_named() {
        let on = |given: &[(&str, bool)], name| {
            is_on(&given.iter().map(|(name, on)| ((*name).into(), *on)).collect(), name)
        };
        assert!(on(&[], "ComponentFlagz") && on(&[], "WatchListClient"));
        assert!(!on(&[("AllAlpha", false)], "ComponentFlagz"));
        assert!(on(&[("AllAlpha", false)], "WatchListClient"));
        assert!(!on(&[("AllBeta", false)], "WatchListClient"));
        assert!(on(&[("AllAlpha", false), ("ComponentStatusz", true)], "ComponentStatusz"));
        assert!(on(&[("AllAlpha", false), ("AllBeta", false)], "MultiCIDRServiceAllocator"));
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<&str> =
            LOCKED_ON.split_ascii_whitespace().chain(FREE.split_ascii_whitespace()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
