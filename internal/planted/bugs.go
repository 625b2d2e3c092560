package planted

// Bug is one precaution taken out.
type Bug uint8

// The bugs, by rule of the safety rules; rule 18 stands for the ledger's section.
const (
	None                         Bug = iota
	AckBeforePeer                    // a write is answered before the members have acknowledged it
	JoinerNotCounted                 // a joining replica does not count until its Join is applied
	UnknownNarrow                    // while the outcome of a Join is unknown, the narrower set counts
	FlushNotForwarded                // FLUSH is not sent to the members
	FUANotForwarded                  // FUA is not sent to the members
	FlushAckedUnsynced               // a member answers a flush before its fdatasync ended
	VersionIgnored                   // Apply does not compare the record's version
	AnyoneProposes                   // Apply takes a Drop or Join from a process that is not the recorded primary
	LastMemberDropped                // the last member of the set can be dropped
	JoinWithoutDrain                 // a Join waits neither for frames that were sent before the joiner counted nor for a flush, which waits for them
	JoinWithoutFlush                 // a Join needs no flush begun after the joiner counted
	JoinBeforeUpToDate               // a Join is proposed before the joiner is durably UpToDate
	JoinWithDirt                     // a Join is proposed although blocks became dirty again
	PrimaryFromRecord                // a process that starts is primary when the ledger names its node
	PromoteAnyProcess                // Apply takes a Promote that names a process which is over
	ServeWhileSteppingDown           // a primary goes on serving after it proposed StepDown
	ReadWithoutLease                 // reads are served without a valid lease
	LeaseNotRechecked                // the lease is not looked at again after the last byte was read
	LeaseFromReceipt                 // the lease is counted from the receipt of the acknowledgement
	BeaconWithoutDuration            // a promise lasts as long as the member's own policy says, not the beacon
	PromiseNotKept                   // a member serves although it promised not to
	PromiseForgotten                 // a process starts without a promise
	PromiseReleasedByAnyStepDown     // the StepDown of any epoch releases a promise
	DriftIgnored                     // no margin is added for the drift of clocks
	DrainSkippedAtLead               // the first frame of a session is accepted while local I/O of an earlier one goes on
	DrainSkippedAtPromotion          // a role begins while local I/O of an earlier one goes on
	HungDiskServes                   // a replica whose disk hangs goes on
	ReportSkipped                    // a follower does not report its suspect blocks
	ReportOfLeaderOnly               // a new primary does not use what it tracked itself for a member
	SuspectsServed                   // reads and writes do not wait for suspect blocks
	InFlightForgotten                // frames in flight when a session ended are not suspect
	ReceivedForgotten                // frames above the watermark are not suspect at a promotion
	CopyForgotten                    // a member does not suspect blocks that were copied into it of differing from the third replica
	ActiveForgotten                  // the activity log is not looked at after an unclean stop
	LogAfterWrite                    // a write does not wait for the activity log
	LogOnPrimaryOnly                 // a secondary keeps no activity log
	OverlapNotLocked                 // writes that overlap run at the same time
	ReadNotLocked                    // reads do not wait for writes that overlap
	SubBlockNotRounded               // locks are not rounded out to the logical block
	OverlapReorderedOnSecondary      // a secondary applies overlapping frames in any order
	FailedWriteUnlocked              // after a failed write its range is served although the members may differ
	FailedWriteUnmarked              // a write that failed together with the disk is not suspect for who may have applied it
	FailedSeqAcked                   // a cumulative acknowledgement covers a frame that failed
	OldEpochLeads                    // a primary of an older epoch is followed
	EpochNotStored                   // a new epoch is answered under before it is durable
	OldSessionFrame                  // frames of an earlier session are used
	BadFrameSkipped                  // a frame refused for bounds is skipped and the session goes on
	BootForgotten                    // a changed boot id does not set the unclean mark
	UncleanAfterBoot                 // the new boot id is stored before the unclean mark
	UncleanPreferred                 // the coordinator does not look at the unclean mark
	SilenceIsUnclean                 // the silence of other members counts as unclean
	HangIsFailure                    // a member whose disk hangs counts as failed when an unclean one is weighed
	UncleanClearedAtStart            // the unclean mark is cleared when the replica follows, not when it was made equal
	UnstableDropped                  // blocks acknowledged and not flushed are forgotten when a session ends
	FlushCoversLater                 // a flush makes stable what was acknowledged after it was sent
	KeptWithoutSync                  // unstable blocks count as kept without a clean fdatasync
	KeptByAnyBoot                    // unstable blocks count as kept after another boot, and what that boot reports adds nothing
	AnyFlushAckClears                // any flush acknowledgement clears the unstable blocks
	BitClearedOnSend                 // a bit is cleared when the block is sent, and stays clear when the session ends
	BitClearedByOlderVersion         // the acknowledgement of a copy clears the bit of a newer write
	EqualWithoutFlush                // a run that was found equal needs no flush
	OutsideNotTracked                // a member keeps no bitmap for replicas outside the set
	HandoverSkipped                  // a Drop does not hand the bitmap to the members that stay
	HandoverNotDurable               // a handed bitmap is acknowledged before it is durable
	LeadForgetsDrops                 // a new session does not keep up the bitmap of a member whose Drop is under way
	DroppedIsSettled                 // a member whose Drop is under way is called settled when it is back
	JoinerGetsNoBitmaps              // a joiner is not handed the bitmaps for those outside
	ResyncBeforeBitmap               // a resync begins before the list of what it has to copy is durable
	ClearedByLedger                  // applying a Join clears the bitmap for the joiner
	ShrinkBeforeCommit               // writes are answered without a member before its Drop is applied
	TargetStaysUpToDate              // a resync target is not marked Inconsistent first
	TargetPromotable                 // a replica that is not UpToDate accepts a Promote
	ResyncDoneLost                   // a lost JoinReady is taken as said
	InvalidateBeforeDrop             // an invalidated member is overwritten before it is dropped
	FsyncRetried                     // a failed fdatasync is tried again
	FailedReturns                    // StepDown of a failed primary leaves it in the set
	FailedHealedByRestart            // a restart heals a failed replica, for its core and for its metadata
	JoinOfAnyInstance                // Promote and Join do not compare the replica's instance
	InstanceIgnored                  // a peer with another instance is followed or led
	RestoredIgnored                  // a replica restored from a copy is not recognised by its session id
	LineageIgnored                   // histories are not compared
	DropAddsNoGeneration             // a Drop opens no generation
	ForkAtRecordEnd                  // a forced promotion does not cut the lineage at the fork
	VoterByName                      // an empty ledger under an old name votes
	ZombieAdmitted                   // requests of a client's older session are taken
	ResendNotHeld                    // a client's new session does not wait for what the old one started
	ErrorAtDemotion                  // requests unfinished at the loss of the role are answered with an error
	AnswersAfterRole                 // a newer record lets members go before it ends the role, which completes what waited for them
	SessionUnnamed                   // requests of a numbered session reach the core without its name
	ConnectionOutlivesEpoch          // a connection goes on in an epoch that did not accept it
	TrimDiffers                      // TRIM reads back differently on two replicas
	ResizeUnzeroed                   // new space becomes visible before it is zeroed
	VerifyMarksDirty                 // verify marks mismatches in the dirty bitmap
	TornSuperblockAccepted           // a superblock is used whatever its checksum says
	SameSlotTwice                    // a superblock overwrites the newest one
	PageChecksumIgnored              // a bitmap page that does not decode is taken as clean
	MetaSyncSkipped                  // metadata is reported durable before it is synced
	LogLingerSkipped                 // regions leave the stored activity log before what replaces them is stable
	EvictWithoutDataSync             // a region leaves the activity log while its data is not stable
	WeakHashSkips                    // blocks are taken as equal by a hash without a key
	IncarnationCrossed               // messages of another incarnation are taken
	ChildAlwaysAdopted               // a ledger with commits of its own is given up for a child incarnation
	TailDropped                      // a new incarnation drops the uncommitted tail
	RelayDirectOnly                  // proposals travel to the leader directly or not at all
	OldFenceProof                    // a fence proof of an earlier boot counts
	FenceTimeoutIsSuccess            // a fence that timed out counts as done
	AnyExecutorFires                 // any node fires a requested fence
	AloneAfterRestart                // a pair's survivor goes on alone although it was restarted since
	WaitForPeerSkipped               // a new primary serves before a silent peer is dropped or equal
	SplitTrim                        // a piece takes its activity-log regions one by one
	PartialDrop                      // members that fail together are dropped one by one, each handed to the other
	ErrorsAtOnce                     // requests are answered with errors as soon as a member is away
	ErrorUnlocksRange                // a write that is answered with an error while it is under way gives its range free
	ErrorAnsweredTwice               // a request that is answered with an error while it is under way is answered again at its end
	ErrorStartsLater                 // a request that is answered with an error before it was begun is begun later
	GivenUpForgotten                 // a write whose client is given up is forgotten while a member lacks it
	FreezeDeadlineAnswers            // requests are answered with errors before the freeze deadline closes their connections
	FreezeDeadlineAdmits             // connections are taken after the freeze deadline has closed them
	end
)

// Info is what is known of a bug.
type Info struct {
	Name     string
	Rule     int    // number of the safety rule; 18: of the ledger
	Sentence string // what the product does with it
}

var infos = [end]Info{
	None:                         {"None", 0, "nothing is planted"},
	AckBeforePeer:                {"AckBeforePeer", 1, "a write is answered before the members have acknowledged it"},
	JoinerNotCounted:             {"JoinerNotCounted", 1, "a joining replica does not count until its Join is applied"},
	UnknownNarrow:                {"UnknownNarrow", 1, "while the outcome of a Join is unknown, the narrower set counts"},
	FlushNotForwarded:            {"FlushNotForwarded", 1, "FLUSH is not sent to the members"},
	FUANotForwarded:              {"FUANotForwarded", 1, "FUA is not sent to the members"},
	FlushAckedUnsynced:           {"FlushAckedUnsynced", 1, "a member answers a flush before its fdatasync ended"},
	VersionIgnored:               {"VersionIgnored", 2, "Apply does not compare the record's version"},
	AnyoneProposes:               {"AnyoneProposes", 2, "Apply takes a Drop or Join from a process that is not the recorded primary"},
	LastMemberDropped:            {"LastMemberDropped", 2, "the last member of the set can be dropped"},
	JoinWithoutDrain:             {"JoinWithoutDrain", 2, "a Join waits neither for frames that were sent before the joiner counted nor for a flush, which waits for them"},
	JoinWithoutFlush:             {"JoinWithoutFlush", 2, "a Join needs no flush begun after the joiner counted"},
	JoinBeforeUpToDate:           {"JoinBeforeUpToDate", 2, "a Join is proposed before the joiner is durably UpToDate"},
	JoinWithDirt:                 {"JoinWithDirt", 2, "a Join is proposed although blocks became dirty again"},
	PrimaryFromRecord:            {"PrimaryFromRecord", 3, "a process that starts is primary when the ledger names its node"},
	PromoteAnyProcess:            {"PromoteAnyProcess", 3, "Apply takes a Promote that names a process which is over"},
	ServeWhileSteppingDown:       {"ServeWhileSteppingDown", 3, "a primary goes on serving after it proposed StepDown"},
	ReadWithoutLease:             {"ReadWithoutLease", 4, "reads are served without a valid lease"},
	LeaseNotRechecked:            {"LeaseNotRechecked", 4, "the lease is not looked at again after the last byte was read"},
	LeaseFromReceipt:             {"LeaseFromReceipt", 4, "the lease is counted from the receipt of the acknowledgement"},
	BeaconWithoutDuration:        {"BeaconWithoutDuration", 4, "a promise lasts as long as the member's own policy says, not the beacon"},
	PromiseNotKept:               {"PromiseNotKept", 4, "a member serves although it promised not to"},
	PromiseForgotten:             {"PromiseForgotten", 4, "a process starts without a promise"},
	PromiseReleasedByAnyStepDown: {"PromiseReleasedByAnyStepDown", 4, "the StepDown of any epoch releases a promise"},
	DriftIgnored:                 {"DriftIgnored", 4, "no margin is added for the drift of clocks"},
	DrainSkippedAtLead:           {"DrainSkippedAtLead", 5, "the first frame of a session is accepted while local I/O of an earlier one goes on"},
	DrainSkippedAtPromotion:      {"DrainSkippedAtPromotion", 5, "a role begins while local I/O of an earlier one goes on"},
	HungDiskServes:               {"HungDiskServes", 5, "a replica whose disk hangs goes on"},
	ReportSkipped:                {"ReportSkipped", 6, "a follower does not report its suspect blocks"},
	ReportOfLeaderOnly:           {"ReportOfLeaderOnly", 6, "a new primary does not use what it tracked itself for a member"},
	SuspectsServed:               {"SuspectsServed", 6, "reads and writes do not wait for suspect blocks"},
	InFlightForgotten:            {"InFlightForgotten", 6, "frames in flight when a session ended are not suspect"},
	ReceivedForgotten:            {"ReceivedForgotten", 6, "frames above the watermark are not suspect at a promotion"},
	CopyForgotten:                {"CopyForgotten", 6, "a member does not suspect blocks that were copied into it of differing from the third replica"},
	ActiveForgotten:              {"ActiveForgotten", 6, "the activity log is not looked at after an unclean stop"},
	LogAfterWrite:                {"LogAfterWrite", 6, "a write does not wait for the activity log"},
	LogOnPrimaryOnly:             {"LogOnPrimaryOnly", 6, "a secondary keeps no activity log"},
	OverlapNotLocked:             {"OverlapNotLocked", 7, "writes that overlap run at the same time"},
	ReadNotLocked:                {"ReadNotLocked", 7, "reads do not wait for writes that overlap"},
	SubBlockNotRounded:           {"SubBlockNotRounded", 7, "locks are not rounded out to the logical block"},
	OverlapReorderedOnSecondary:  {"OverlapReorderedOnSecondary", 7, "a secondary applies overlapping frames in any order"},
	FailedWriteUnlocked:          {"FailedWriteUnlocked", 7, "after a failed write its range is served although the members may differ"},
	FailedWriteUnmarked:          {"FailedWriteUnmarked", 7, "a write that failed together with the disk is not suspect for who may have applied it"},
	FailedSeqAcked:               {"FailedSeqAcked", 7, "a cumulative acknowledgement covers a frame that failed"},
	OldEpochLeads:                {"OldEpochLeads", 8, "a primary of an older epoch is followed"},
	EpochNotStored:               {"EpochNotStored", 8, "a new epoch is answered under before it is durable"},
	OldSessionFrame:              {"OldSessionFrame", 8, "frames of an earlier session are used"},
	BadFrameSkipped:              {"BadFrameSkipped", 8, "a frame refused for bounds is skipped and the session goes on"},
	BootForgotten:                {"BootForgotten", 9, "a changed boot id does not set the unclean mark"},
	UncleanAfterBoot:             {"UncleanAfterBoot", 9, "the new boot id is stored before the unclean mark"},
	UncleanPreferred:             {"UncleanPreferred", 9, "the coordinator does not look at the unclean mark"},
	SilenceIsUnclean:             {"SilenceIsUnclean", 9, "the silence of other members counts as unclean"},
	HangIsFailure:                {"HangIsFailure", 9, "a member whose disk hangs counts as failed when an unclean one is weighed"},
	UncleanClearedAtStart:        {"UncleanClearedAtStart", 9, "the unclean mark is cleared when the replica follows, not when it was made equal"},
	UnstableDropped:              {"UnstableDropped", 10, "blocks acknowledged and not flushed are forgotten when a session ends"},
	FlushCoversLater:             {"FlushCoversLater", 10, "a flush makes stable what was acknowledged after it was sent"},
	KeptWithoutSync:              {"KeptWithoutSync", 10, "unstable blocks count as kept without a clean fdatasync"},
	KeptByAnyBoot:                {"KeptByAnyBoot", 10, "unstable blocks count as kept after another boot, and what that boot reports adds nothing"},
	AnyFlushAckClears:            {"AnyFlushAckClears", 10, "any flush acknowledgement clears the unstable blocks"},
	BitClearedOnSend:             {"BitClearedOnSend", 11, "a bit is cleared when the block is sent, and stays clear when the session ends"},
	BitClearedByOlderVersion:     {"BitClearedByOlderVersion", 11, "the acknowledgement of a copy clears the bit of a newer write"},
	EqualWithoutFlush:            {"EqualWithoutFlush", 11, "a run that was found equal needs no flush"},
	OutsideNotTracked:            {"OutsideNotTracked", 11, "a member keeps no bitmap for replicas outside the set"},
	HandoverSkipped:              {"HandoverSkipped", 11, "a Drop does not hand the bitmap to the members that stay"},
	HandoverNotDurable:           {"HandoverNotDurable", 11, "a handed bitmap is acknowledged before it is durable"},
	LeadForgetsDrops:             {"LeadForgetsDrops", 11, "a new session does not keep up the bitmap of a member whose Drop is under way"},
	DroppedIsSettled:             {"DroppedIsSettled", 11, "a member whose Drop is under way is called settled when it is back"},
	JoinerGetsNoBitmaps:          {"JoinerGetsNoBitmaps", 11, "a joiner is not handed the bitmaps for those outside"},
	ResyncBeforeBitmap:           {"ResyncBeforeBitmap", 11, "a resync begins before the list of what it has to copy is durable"},
	ClearedByLedger:              {"ClearedByLedger", 11, "applying a Join clears the bitmap for the joiner"},
	ShrinkBeforeCommit:           {"ShrinkBeforeCommit", 11, "writes are answered without a member before its Drop is applied"},
	TargetStaysUpToDate:          {"TargetStaysUpToDate", 12, "a resync target is not marked Inconsistent first"},
	TargetPromotable:             {"TargetPromotable", 12, "a replica that is not UpToDate accepts a Promote"},
	ResyncDoneLost:               {"ResyncDoneLost", 12, "a lost JoinReady is taken as said"},
	InvalidateBeforeDrop:         {"InvalidateBeforeDrop", 12, "an invalidated member is overwritten before it is dropped"},
	FsyncRetried:                 {"FsyncRetried", 13, "a failed fdatasync is tried again"},
	FailedReturns:                {"FailedReturns", 13, "StepDown of a failed primary leaves it in the set"},
	FailedHealedByRestart:        {"FailedHealedByRestart", 13, "a restart heals a failed replica, for its core and for its metadata"},
	JoinOfAnyInstance:            {"JoinOfAnyInstance", 14, "Promote and Join do not compare the replica's instance"},
	InstanceIgnored:              {"InstanceIgnored", 14, "a peer with another instance is followed or led"},
	RestoredIgnored:              {"RestoredIgnored", 14, "a replica restored from a copy is not recognised by its session id"},
	LineageIgnored:               {"LineageIgnored", 14, "histories are not compared"},
	DropAddsNoGeneration:         {"DropAddsNoGeneration", 14, "a Drop opens no generation"},
	ForkAtRecordEnd:              {"ForkAtRecordEnd", 14, "a forced promotion does not cut the lineage at the fork"},
	VoterByName:                  {"VoterByName", 14, "an empty ledger under an old name votes"},
	ZombieAdmitted:               {"ZombieAdmitted", 15, "requests of a client's older session are taken"},
	ResendNotHeld:                {"ResendNotHeld", 15, "a client's new session does not wait for what the old one started"},
	ErrorAtDemotion:              {"ErrorAtDemotion", 15, "requests unfinished at the loss of the role are answered with an error"},
	AnswersAfterRole:             {"AnswersAfterRole", 15, "a newer record lets members go before it ends the role, which completes what waited for them"},
	SessionUnnamed:               {"SessionUnnamed", 15, "requests of a numbered session reach the core without its name"},
	ConnectionOutlivesEpoch:      {"ConnectionOutlivesEpoch", 15, "a connection goes on in an epoch that did not accept it"},
	TrimDiffers:                  {"TrimDiffers", 16, "TRIM reads back differently on two replicas"},
	ResizeUnzeroed:               {"ResizeUnzeroed", 16, "new space becomes visible before it is zeroed"},
	VerifyMarksDirty:             {"VerifyMarksDirty", 16, "verify marks mismatches in the dirty bitmap"},
	TornSuperblockAccepted:       {"TornSuperblockAccepted", 17, "a superblock is used whatever its checksum says"},
	SameSlotTwice:                {"SameSlotTwice", 17, "a superblock overwrites the newest one"},
	PageChecksumIgnored:          {"PageChecksumIgnored", 17, "a bitmap page that does not decode is taken as clean"},
	MetaSyncSkipped:              {"MetaSyncSkipped", 17, "metadata is reported durable before it is synced"},
	LogLingerSkipped:             {"LogLingerSkipped", 17, "regions leave the stored activity log before what replaces them is stable"},
	EvictWithoutDataSync:         {"EvictWithoutDataSync", 17, "a region leaves the activity log while its data is not stable"},
	WeakHashSkips:                {"WeakHashSkips", 17, "blocks are taken as equal by a hash without a key"},
	IncarnationCrossed:           {"IncarnationCrossed", 18, "messages of another incarnation are taken"},
	ChildAlwaysAdopted:           {"ChildAlwaysAdopted", 18, "a ledger with commits of its own is given up for a child incarnation"},
	TailDropped:                  {"TailDropped", 18, "a new incarnation drops the uncommitted tail"},
	RelayDirectOnly:              {"RelayDirectOnly", 18, "proposals travel to the leader directly or not at all"},
	OldFenceProof:                {"OldFenceProof", 18, "a fence proof of an earlier boot counts"},
	FenceTimeoutIsSuccess:        {"FenceTimeoutIsSuccess", 18, "a fence that timed out counts as done"},
	AnyExecutorFires:             {"AnyExecutorFires", 18, "any node fires a requested fence"},
	AloneAfterRestart:            {"AloneAfterRestart", 18, "a pair's survivor goes on alone although it was restarted since"},
	WaitForPeerSkipped:           {"WaitForPeerSkipped", 18, "a new primary serves before a silent peer is dropped or equal"},
	SplitTrim:                    {"SplitTrim", 5, "a piece takes its activity-log regions one by one"},
	PartialDrop:                  {"PartialDrop", 18, "members that fail together are dropped one by one, each handed to the other"},
	ErrorsAtOnce:                 {"ErrorsAtOnce", 2, "requests are answered with errors as soon as a member is away"},
	ErrorUnlocksRange:            {"ErrorUnlocksRange", 7, "a write that is answered with an error while it is under way gives its range free"},
	ErrorAnsweredTwice:           {"ErrorAnsweredTwice", 15, "a request that is answered with an error while it is under way is answered again at its end"},
	ErrorStartsLater:             {"ErrorStartsLater", 15, "a request that is answered with an error before it was begun is begun later"},
	GivenUpForgotten:             {"GivenUpForgotten", 6, "a write whose client is given up is forgotten while a member lacks it"},
	FreezeDeadlineAnswers:        {"FreezeDeadlineAnswers", 15, "requests are answered with errors before the freeze deadline closes their connections"},
	FreezeDeadlineAdmits:         {"FreezeDeadlineAdmits", 15, "connections are taken after the freeze deadline has closed them"},
}

func (b Bug) String() string {
	if b < end {
		return infos[b].Name
	}
	return "invalid"
}

// Info returns what is known of b.
func (b Bug) Info() Info { return infos[b] }

// All returns every bug, in order of the rules.
func All() []Bug {
	all := make([]Bug, 0, end-1)
	for b := None + 1; b < end; b++ {
		all = append(all, b)
	}
	return all
}
