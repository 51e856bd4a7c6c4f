/*
 * The rotation protocol, for spin. docs/protocol.md, "The model", maps every label and inline here to the function in src.
 *
 * What it is made of
 *   Member(p)       one process of the fleet: its sync, step by step; it may die between any two steps and start again
 *   Application(p)  the same process's encrypts and reads, which go on beside its sync
 *   Coordinator(c)  one `kek rotate` after another: starts, resumes or reverses, leads, loses its lease, and is then a zombie
 *   World           MongoDB's late writes, clocks that run out, cancels, the guard over the validators
 * One atomic block is one operation on MongoDB, or one step within a process. Between two of them anything may happen: a
 * process that is paused is one that takes no step for a while, so pause and wake need no step of their own.
 *
 * The abstraction
 *   - Two versions, 1 and 2, are also the bits of a set of versions. Every rotation leaves one for the other, so after the
 *     first (1 to 2) the next is the reverse. A record is the version of its envelope.
 *   - No counters. An epoch matters only as "what was read is still so": `acked` and `seen` of a member and `held` of a
 *     coordinator are true until somebody else changes the rotation. A lease token matters in the same way.
 *   - No clocks. A member's `age` is YOUNG from a heartbeat on and FRESH after the sync that began with it; it may become OLD at
 *     any moment. Only who is OLD is evicted, which says that the eviction time is longer than the lease. A lease of a
 *     coordinator may end at any moment.
 *   - `sent` is the set of versions of which an envelope was ever made. Each may land on any record at any later moment and
 *     as often as it likes: inserts held across sleeps, requests of the dead, whole documents replaced with old envelopes.
 *   - A copy read from MongoDB is opened within the drain time. Its process may have to read again when its lease ran out
    meanwhile, or when it was evicted and joins again: then it drops what it may not hold without a drain
    (-DCOPY_OUTLIVES_EVICTION shows what that spares).
 *   - A wrap is what it was when it was read (`same`) or not.
 *
 * Left out: staged versions (here a version is loaded only when the phase asks for it), keys that are lacking or wrong,
 * records that do not unwrap, the removal of a version, several fields and collections, a rotation without the fence
 * unless -DFENCE_OFF, and the loss of majority writes. A `collMod` that arrives after the record of the fence has changed
 * is put back at once here; in the product it takes a process up to two leases (-DLATE_COLLMOD shows the gap).
 */

#ifndef PROCESSES
#define PROCESSES 1
#endif
#ifndef COORDINATORS
#define COORDINATORS 1
#endif
#ifndef RECORDS
#define RECORDS 1
#endif
#ifndef ROTATIONS
#define ROTATIONS 2        /* there and back */
#endif

#if PROCESSES == 1
#define EVERY_PROCESS(holds) (holds(0))
#define FOR_PROCESSES(act) act(0)
#elif PROCESSES == 2
#define EVERY_PROCESS(holds) (holds(0) && holds(1))
#define FOR_PROCESSES(act) act(0); act(1)
#else
#define EVERY_PROCESS(holds) (holds(0) && holds(1) && holds(2))
#define FOR_PROCESSES(act) act(0); act(1); act(2)
#endif

#ifdef TERMS               /* how often a coordinator may take the lease, all of them together */
byte terms = TERMS;
#define may_lead (terms > 0)
#else
#define may_lead true
#endif

#define STEADY 0
#define OLD 0
#define YOUNG 1
#define FRESH 2
#define other(version) (3 - (version))

/* ---- MongoDB ------------------------------------------------------------------------------------------------------ */

byte phase = STEADY;       /* of the open rotation */
byte to = 1;               /* its target; in the steady state the active version */
bool running;              /* or cancelled in phase 2 */
bool reverses;             /* it replaced an unfinished rotation, which a cancel in phase 1 opens again */
byte fence;                /* the version that the live validators reject, 0 for none */
byte fence_recorded;       /* the same in the rotation's document */
byte starts = ROTATIONS;   /* how many rotations may still be started */
byte record[RECORDS] = 1;
byte just_cancelled;       /* the version whose fence a cancel is still to lift */
byte sent = 1;             /* versions of which envelopes are on their way */
bool on_roster[PROCESSES];
bool acked[PROCESSES];     /* the heartbeat acknowledges the epoch of now */

/* ---- in the processes --------------------------------------------------------------------------------------------- */

byte age[PROCESSES];
bool serving[PROCESSES];   /* has acknowledged since it joined (HeartbeatWriter.acked) */
byte loaded[PROCESSES];
byte write_version[PROCESSES];
byte copy[PROCESSES];      /* version of a copy that was read and is not opened yet */
bool seen[PROCESSES];      /* the state that its sync has read is still the one of now */
byte seen_phase[PROCESSES];
byte seen_to[PROCESSES];

bool held[COORDINATORS];   /* its token and epoch are still those of the rotation */
bool same[COORDINATORS];   /* the wrap that its worker has read is still the one stored */
byte at_record[COORDINATORS];

/* ---- the rules that are pure -------------------------------------------------------------------------------------- */

#define may_hold(ph, target) ((ph) == 1 || (ph) == 2 -> 3 : (target))
#define writes(ph, target) ((ph) == 1 -> other(target) : (target))

#ifdef NO_SELF_FENCING
#define may_encrypt(p) (serving[p])
#else
#define may_encrypt(p) (serving[p] && age[p] == FRESH)
#endif
#define serves(p) (may_encrypt(p) || serving[p] && on_roster[p])

#define awaited_no_more(p) (!on_roster[p] || acked[p])
#ifdef NO_WAIT_FOR_ACKS
#define all_acknowledged (true)
#else
#define all_acknowledged EVERY_PROCESS(awaited_no_more)
#endif

#if RECORDS == 1
#define at_version(version) (record[0] == (version))
#define record_opens(p) (!serves(p) || loaded[p] & record[0])
#else
#define at_version(version) (record[0] == (version) || record[1] == (version))
#define record_opens(p) (!serves(p) || loaded[p] & record[0] && loaded[p] & record[1])
#endif

#ifdef NO_LEASE_CHECK
#define lost(c) (false)
#define may_lose(c) (trouble && held[c])
#define still_held(c, ph) (phase == (ph) && to == target)
#else
#define lost(c) (!held[c])
#ifdef LATE_COLLMOD
#define may_lose(c) (trouble && held[c])
#else
#define may_lose(c) (trouble && held[c] && same[c])
#endif
#define still_held(c, ph) (held[c])
#endif
#if COORDINATORS == 1
#define lease_free (!held[0])
#else
#define lease_free (!held[0] && !held[1])
#endif

#ifdef EVICTION_SHORTER_THAN_LEASE
#define silent(p) (on_roster[p])
#else
#define silent(p) (on_roster[p] && age[p] == OLD)
#endif

/* ---- the guarantees ----------------------------------------------------------------------------------------------- */

#define knows_1(p) (!serves(p) || loaded[p] & 1)
#define knows_2(p) (!serves(p) || loaded[p] & 2)

/* Guarantee 1: nobody writes under a version before all members know it. */
inline all_know(version) {
  assert(version == 1 -> EVERY_PROCESS(knows_1) : EVERY_PROCESS(knows_2))
}

/* Guarantee 2, for the fleet: every record opens with the keys of every serving process. */
inline every_record_opens() {
  assert(EVERY_PROCESS(record_opens))
}

/* ---- what one change of the rotation means for who has read it ---------------------------------------------------- */

#define forget_seen(p) acked[p] = false; seen[p] = false

inline epoch_grows() {
  FOR_PROCESSES(forget_seen);
#ifndef CANCEL_LIFTS_ANOTHERS_FENCE
  just_cancelled = 0         /* a cancel lifts the fence only of the state that it left */
#endif
}

inline nobody_holds() {
  held[0] = false;
#if COORDINATORS == 2
  held[1] = false
#endif
}

inline record_changes(r) {
  if :: at_record[0] == r -> same[0] = false :: else fi;
#if COORDINATORS == 2
  if :: at_record[1] == r -> same[1] = false :: else fi
#endif
}

bool alone;                /* nothing fails any more and nobody interferes: for the liveness property */
#ifdef LIVENESS
#define trouble (!alone)
byte late = 1;             /* writes that still arrive after that */
ltl left_alone_it_completes { [] (alone -> <> (phase == STEADY)) }
#else
#define trouble (true)
#endif

/* ---- one process: its sync ---------------------------------------------------------------------------------------- */

inline dies(p) {
  age[p] = OLD; serving[p] = false; loaded[p] = 0; write_version[p] = 0; copy[p] = 0;
  forgets(p)
}

inline forgets(p) { seen[p] = false; seen_phase[p] = 0; seen_to[p] = 0 }

/* It joins when it has no heartbeat; one that was evicted joins again. */
inline heartbeat(p) {
  atomic {
    if
    :: on_roster[p]
    :: else -> on_roster[p] = true; acked[p] = false; serving[p] = false
    fi;
    if :: age[p] == OLD -> age[p] = YOUNG :: else fi
  }
}

inline read_state(p) {
  atomic { seen[p] = true; seen_phase[p] = phase; seen_to[p] = to }
}

/* An acknowledgement never recreates a heartbeat. */
inline acknowledge(p) {
  if
  :: on_roster[p] -> acked[p] = seen[p]; serving[p] = true
  :: else -> serving[p] = false
  fi
}

inline synced(p) { if :: age[p] == YOUNG -> age[p] = FRESH :: else fi }

/* Whether it dies here or a few steps later shows to nobody: what it did since the heartbeat is in its memory alone. */
#define may_die :: atomic { trouble -> dies(p); goto start } :: true

proctype Member(byte p) {
start:
  /* The heartbeat of its former life is not waited for any more: fewer to wait for is the worse case. */
  atomic { trouble -> on_roster[p] = false };
beat:
#ifdef READ_BEFORE_HEARTBEAT
  read_state(p);
#else
  heartbeat(p);
#endif
read:
  if may_die fi;
#ifdef READ_BEFORE_HEARTBEAT
  heartbeat(p);
#else
  read_state(p);
#endif
#ifdef ACKNOWLEDGE_BEFORE_APPLY
  atomic { if :: on_roster[p] -> acked[p] = seen[p] :: else fi };
#endif
apply:
  atomic {
    loaded[p] = loaded[p] | may_hold(seen_phase[p], seen_to[p]);
    write_version[p] = writes(seen_phase[p], seen_to[p])
  };
settle:
  atomic {
#ifndef NO_DRAIN
    if
    :: serving[p] && copy[p] & loaded[p] & ~may_hold(seen_phase[p], seen_to[p]) ->
      if :: trouble -> synced(p); forgets(p); goto beat :: !trouble -> copy[p] = 0 fi
    :: else
    fi;
#endif
    loaded[p] = loaded[p] & may_hold(seen_phase[p], seen_to[p]);
#ifndef COPY_OUTLIVES_EVICTION
    if :: !serving[p] -> copy[p] = copy[p] & loaded[p] :: else fi;
#endif
    seen_phase[p] = 0; seen_to[p] = 0;
    every_record_opens()
  };
acknowledge_state:
  atomic {
    acknowledge(p);
    if :: serving[p] -> synced(p) :: else fi;
    seen[p] = false;
    every_record_opens();
    if may_die fi;
    goto beat
  }
}

/* ---- the same process: encrypt and decrypt ------------------------------------------------------------------------ */

/* A process that lost its place may lack the version: then it syncs, and what MongoDB's state lets it load must do. */
inline reads(p, version) {
  assert(version & (loaded[p] | may_hold(phase, to)));
  copy[p] = version & loaded[p]
}

proctype Application(byte p) {
end:
  do
  /* The envelope may reach MongoDB at any later time. */
  :: atomic { trouble && may_encrypt(p) && loaded[p] & write_version[p] ->
       all_know(write_version[p]);
       sent = sent | write_version[p] }
  /* One reader is enough: a copy holds up nobody but its own process. */
  :: atomic { trouble && p == 0 && serving[p] && copy[p] == 0 -> reads(p, record[0]) }
#if RECORDS == 2
  :: atomic { trouble && p == 0 && serving[p] && copy[p] == 0 -> reads(p, record[1]) }
#endif
  /* Guarantee 2, for one read: what could be opened when it was read still can be. */
  :: atomic { copy[p] != 0 ->
       assert(copy[p] & loaded[p]);
       copy[p] = 0 }
  od
}

/* ---- kek rotate --------------------------------------------------------------------------------------------------- */

/*
 * A coordinator that dies, or loses its lease, with nothing under way: no later step of it shows, so it is gone. One that
 * loses it while a batch is in hand is a zombie whose batch lands late: see World.
 */
#define gone(c) (lost(c) || trouble) -> held[c] = false

inline evict(p) { on_roster[p] = false; acked[p] = false }

inline await_acknowledgements() {
  do
  :: atomic { !lost(c) && all_acknowledged -> break }
  :: atomic { gone(c); goto acquire }
#ifndef NO_EVICTION
  :: atomic { held[c] && silent(0) && !acked[0] -> evict(0) }
#if PROCESSES > 1
  :: atomic { held[c] && silent(1) && !acked[1] -> evict(1) }
#endif
#if PROCESSES > 2
  :: atomic { held[c] && silent(2) && !acked[2] -> evict(2) }
#endif
#endif
  od
}

/* Compare-and-set on token, epoch and phase. */
inline advance_phase(next) {
  atomic {
    if
    :: still_held(c, next - 1) -> phase = next; epoch_grows()
    :: gone(c); goto acquire
    fi
  }
}

/*
 * The record of the fence is conditional, collMod knows no condition. One that arrives when the record says otherwise
 * already is put back by the guard; here at once.
 */
inline set_fence(version) {
  atomic { if :: !lost(c) -> fence_recorded = version :: gone(c); goto acquire fi };
#ifdef LATE_COLLMOD
  fence = version
#else
  atomic { if :: fence_recorded == version -> fence = version :: else fi }
#endif
}

/* The second one is there for what it does while the first is a zombie. */
#ifdef LATE_COLLMOD
#define successor (true)
#else
#define successor (c == 0 || same[0])
#endif

proctype Coordinator(byte c) {
  byte target;
acquire:
  target = 0;
end:
  atomic {
    if
    :: successor && may_lead && phase == STEADY && starts > 0 && trouble ->
      starts--; to = other(to); phase = 1; reverses = false
    :: successor && may_lead && phase != STEADY && lease_free -> skip
    :: successor && may_lead && phase == 2 && lease_free && starts > 0 && trouble ->
      starts--; to = other(to); phase = 1; reverses = true
    fi;
#ifdef TERMS
    terms--;
#endif
    running = true; held[c] = true; target = to;
    epoch_grows();
    if :: phase == 2 -> goto rewrap :: phase == 3 -> goto settle :: else fi
  };
announce:
  await_acknowledgements();
  set_fence(0);
  advance_phase(2);
rewrap:
  await_acknowledgements();
to_zero:
  atomic {
    if
    :: gone(c); goto acquire
    :: !lost(c) && record[0] == other(target) -> at_record[c] = 0
#if RECORDS == 2
    :: !lost(c) && record[1] == other(target) -> at_record[c] = 1
#endif
    :: !lost(c) && !at_version(other(target)) -> goto at_zero
    fi;
    same[c] = true
  };
rewrap_batch:
  atomic {
#ifdef NO_COMPARE_AND_SET
    if
    :: record[at_record[c]] == other(target) && fence != target -> assert(same[c]); record[at_record[c]] = target
    :: else
    fi;
#else
    if
    :: same[c] && fence != target ->
      assert(record[at_record[c]] == other(target));
      record[at_record[c]] = target;
      record_changes(at_record[c]);
      every_record_opens()
    :: else
    fi;
#endif
    same[c] = false; at_record[c] = 0;
    goto to_zero
  };
at_zero:
  await_acknowledgements();
raise_fence:
#ifdef FENCE_OFF
#elif defined(NO_FENCE)
#else
  set_fence(other(target));
#endif
second_count:
#ifndef NO_SECOND_COUNT
  atomic { if :: at_version(other(target)) -> skip :: else -> goto zero_again fi };
  set_fence(0);
  goto to_zero;
zero_again:
#endif
  advance_phase(3);
settle:
  await_acknowledgements();
complete:
  atomic {
    if
    :: still_held(c, 3) -> phase = STEADY; running = false; reverses = false; nobody_holds(); epoch_grows()
    :: gone(c)
    fi;
    goto acquire
  }
}

/* ---- what else happens -------------------------------------------------------------------------------------------- */

inline lands(version, r) {
  record[r] = version; record_changes(r); every_record_opens()
}

#if COORDINATORS == 1
#define read_by_worker (same[0])
#else
#define read_by_worker (same[0] || same[1])
#endif
#define may_land(version) (sent & (version) && fence != (version))

/* Processes drop the target when a rotation closes in phase 1: its envelopes must not appear any more, or never have. */
#ifdef CANCEL_LEAVES_FENCE_LIFTED
#define can_close (true)
#else
#define can_close (!(sent & to) || fence_recorded == to)
#endif

inline ages(p) { age[p] = OLD; copy[p] = 0 }

proctype World() {
end:
  do
#ifdef LIVENESS
  :: atomic { !alone && phase != STEADY -> alone = true }
  :: atomic { alone && late > 0 && may_land(1) -> late--; lands(1, 0) }
  :: atomic { alone && late > 0 && may_land(2) -> late--; lands(2, 0) }
#endif
  :: atomic { trouble && may_land(1) && record[0] != 1 -> lands(1, 0) }
  :: atomic { trouble && may_land(2) && record[0] != 2 -> lands(2, 0) }
  :: atomic { trouble && may_land(record[0]) && read_by_worker -> record_changes(0) }
#if RECORDS == 2
  :: atomic { trouble && may_land(1) && record[1] != 1 -> lands(1, 1) }
  :: atomic { trouble && may_land(2) && record[1] != 2 -> lands(2, 1) }
  :: atomic { trouble && may_land(record[1]) && read_by_worker -> record_changes(1) }
#endif
  /* A process has not synced for as long as its lease. */
  :: atomic { trouble && age[0] != OLD -> ages(0) }
#if PROCESSES > 1
  :: atomic { trouble && age[1] != OLD -> ages(1) }
#endif
#if PROCESSES > 2
  :: atomic { trouble && age[2] != OLD -> ages(2) }
#endif
  /* A coordinator's lease runs out, or it dies, with a batch under way. */
  :: atomic { may_lose(0) -> held[0] = false }
  /* kek rotate --cancel */
  :: atomic { trouble && running && phase == 1 && reverses ->
       phase = 2; to = other(to); running = false; reverses = false; nobody_holds(); epoch_grows() }
  :: atomic { trouble && running && phase == 1 && !reverses && can_close ->
       phase = STEADY; to = other(to); running = false; nobody_holds(); epoch_grows() }
  :: atomic { trouble && running && phase == 2 ->
       running = false; nobody_holds(); epoch_grows(); just_cancelled = other(to) }
  :: atomic { just_cancelled != 0 ->
       if :: fence_recorded == just_cancelled -> fence_recorded = 0; fence = 0 :: else fi;
       just_cancelled = 0 }
  /* The guard over the validators, in any process. */
  :: atomic { fence != fence_recorded -> fence = fence_recorded }
  od
}

init {
  atomic {
    run Member(0); run Application(0);
#if PROCESSES > 1
    run Member(1); run Application(1);
#endif
#if PROCESSES > 2
    run Member(2); run Application(2);
#endif
    run Coordinator(0);
#if COORDINATORS == 2
    run Coordinator(1);
#endif
    run World()
  }
}
