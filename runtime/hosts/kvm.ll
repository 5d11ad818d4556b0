; The KVM exit loop (x86-64 Linux): everything until something heavy.
;
; Goes before the other kvm_*.ll and dispatch.ll in one module. All context is
; reached through %vcpu.

; Run the guest until something is heavy. %mask is the thread's signal mask
; outside of the loop; the wake signal is blocked there, and not here. One of the
; LEAVE numbers.
define internal i32 @drive(ptr %vcpu, i64 %mask) {
entry:
  %bus.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.bus
  %bus = load ptr, ptr %bus.p
  %vm.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.vm
  %vm = load ptr, ptr %vm.p
  %run.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.run
  %run = load ptr, ptr %run.p
  %phase.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.phase
  %settled.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.settled
  %halted.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.halted
  %stop.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.stop
  %pause.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.pause
  %intr.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.intr
  %own_number.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.number
  %timed.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.timed
  %looked.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.looked
  %until.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.until
  %armed.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.armed
  %ring.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.ring
  %error.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.error
  %pending.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.pending
  %runs.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.runs
  %interrupted.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.interrupted
  %moved.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.moved
  %deadline.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.deadline
  %access.now.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.now
  %access.done.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.done
  %left.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.left
  %immediate.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.immediate_exit
  %reason.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.exit_reason
  %if_flag.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.if_flag
  %wake.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.wake
  %wake.at = ptrtoint ptr %wake.p to i64
  %own_number = load i32, ptr %own_number.p
  %is_first = icmp eq i32 %own_number, 0
  %ring = load ptr, ptr %ring.p
  %mask.p = alloca i64
  %signals = alloca i64
  %poll = alloca { i32, i16, i16 } ; struct pollfd
  %started = call i64 @host_now(ptr %bus)
  store i64 %started, ptr %looked.p
  %mask.at = ptrtoint ptr %mask.p to i64
  %signals.at = ptrtoint ptr %signals to i64
  %poll.at = ptrtoint ptr %poll to i64
  store i64 %mask, ptr %mask.p
  ; Python may have moved deadlines.
  store atomic i32 1, ptr %moved.p monotonic, align 4
  %phase = load i32, ptr %phase.p
  switch i32 %phase, label %prepare [
    i32 $PHASE_ACCESS, label %access
    i32 $PHASE_SETTLE, label %settle
    i32 $PHASE_POSTED, label %posted
  ]

; Anything to do about deadlines before the guest runs?
prepare:
  %moved = load atomic i32, ptr %moved.p monotonic, align 4
  %still = icmp eq i32 %moved, 0
  br i1 %still, label %go, label %reckon, !prof !1000

reckon:
  %settle_at = call i64 @reckon(ptr %vcpu, ptr %vm, ptr %bus, i1 %is_first)
  %settle_now = icmp ne i64 %settle_at, $NEVER
  br i1 %settle_now, label %begin_settle, label %go

begin_settle:
  store i64 %settle_at, ptr %access.now.p
  store i32 0, ptr %access.done.p
  store i32 $PHASE_SETTLE, ptr %phase.p
  br label %settle

settle:
  %outcome = call i32 @devc_settle(ptr %bus, ptr %vcpu)
  %unsettled = icmp uge i32 %outcome, $ATTENTION
  br i1 %unsettled, label %leave_attend, label %which_phase

; Deadlines that came before an access are dealt with first: devices are wired.
which_phase:
  %left = load i32, ptr %left.p
  %access_waits = icmp ne i32 %left, 0
  br i1 %access_waits, label %then_access, label %all_settled

then_access:
  store i32 0, ptr %access.done.p
  store i32 $PHASE_ACCESS, ptr %phase.p
  store atomic i32 1, ptr %moved.p monotonic, align 4
  br label %access

all_settled:
  store i32 $PHASE_RUN, ptr %phase.p
  store i32 1, ptr %settled.p
  store atomic i32 1, ptr %moved.p monotonic, align 4
  %settled_at = load i64, ptr %access.now.p
  %last = load i64, ptr %until.p
  %over = icmp uge i64 %settled_at, %last
  %time = and i1 %over, %is_first
  br i1 %time, label %time_up, label %prepare

; An exit that was served may not be complete yet: leave through the kernel.
time_up:
  %time.halted = load i32, ptr %halted.p
  %time.awake = icmp eq i32 %time.halted, 0
  br i1 %time.awake, label %stop_for_time, label %leave_time

stop_for_time:
  %unless_asked = cmpxchg ptr %stop.p, i32 0, i32 $STOP_TIME monotonic monotonic
  br label %go

go:
  %halted = load i32, ptr %halted.p
  %awake = icmp eq i32 %halted, 0
  br i1 %awake, label %enter, label %halt, !prof !1000

enter:
  %delivered = call i64 @deliver(ptr %vcpu, ptr %run)
  %delivered_all = icmp eq i64 %delivered, 0
  br i1 %delivered_all, label %check_stop, label %undelivered, !prof !1000

undelivered:
  %acknowledges = icmp sgt i64 %delivered, 0
  br i1 %acknowledges, label %acknowledge, label %failed

acknowledge:
  %acknowledged = call i32 @acknowledge(ptr %vcpu, ptr %vm, ptr %bus)
  switch i32 %acknowledged, label %leave_attend [
    i32 $SERVED, label %prepare
    i32 $UNCLAIMED, label %leave_acknowledge
  ]

; To stop is to run with immediate_exit set: the kernel then completes the
; instruction whose exit was served last, and returns EINTR.
check_stop:
  %stop_or_pause = load atomic i64, ptr %stop.p monotonic, align 8
  %stopping = icmp ne i64 %stop_or_pause, 0
  br i1 %stopping, label %ask_exit, label %guest, !prof !1001

ask_exit:
  store atomic i8 1, ptr %immediate.p monotonic, align 1
  br label %guest

guest:
  store i32 0, ptr %settled.p
  call void @add_one(ptr %runs.p)
  %timed = load i32, ptr %timed.p
  %untimed = icmp eq i32 %timed, 0
  br i1 %untimed, label %run_freely, label %run_timed, !prof !1000

run_timed:
  %status.timed = call i64 @run_timed(ptr %vcpu, ptr %bus)
  br label %back

run_freely:
  %status.free = call i64 @vcpu_ioctl(ptr %vcpu, i64 $KVM_RUN, i64 0)
  br label %back

back:
  %status = phi i64 [ %status.free, %run_freely ], [ %status.timed, %run_timed ]
  %without_ring = icmp eq ptr %ring, null
  br i1 %without_ring, label %after, label %look_posted, !prof !1000

; Posted writes came before the access that the guest stopped at.
look_posted:
  %none_posted = call i1 @is_empty(ptr %ring)
  br i1 %none_posted, label %after, label %serve_posted

serve_posted:
  %served_posted = call i1 @serve_posted(ptr %vcpu, ptr %vm, ptr %bus, ptr %ring, i64 %status)
  br i1 %served_posted, label %after, label %leave_attend

; Python has attended to a posted write that it had to.
posted:
  %status.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.status
  %status.kept = load i64, ptr %status.p
  %attended = call i1 @go_on(ptr %vcpu, ptr %bus, i32 -1)
  br i1 %attended, label %more_posted, label %leave_attend

more_posted:
  %served_more = call i1 @serve_posted(ptr %vcpu, ptr %vm, ptr %bus, ptr %ring, i64 %status.kept)
  br i1 %served_more, label %after, label %leave_attend

after:
  %result.of_run = phi i64 [ %status, %back ], [ %status, %look_posted ], [ %status, %serve_posted ], [ %status.kept, %more_posted ]
  %ran = icmp sge i64 %result.of_run, 0
  br i1 %ran, label %exited, label %failed, !prof !1000

exited:
  %reason = load i32, ptr %reason.p
  %by_port = icmp eq i32 %reason, $EXIT_IO
  br i1 %by_port, label %io, label %otherwise, !prof !1000

otherwise:
  switch i32 %reason, label %leave_exit [
    i32 $EXIT_MMIO, label %mmio
    i32 $EXIT_HLT, label %begin_halt
    i32 $EXIT_IRQ_WINDOW_OPEN, label %prepare
    i32 $EXIT_INTR, label %interrupted
    i32 $EXIT_IOAPIC_EOI, label %leave_eoi
  ]

io:
  %direction.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_direction
  %direction = load i8, ptr %direction.p
  %io.write = zext i8 %direction to i32 ; KVM_EXIT_IO_IN 0, KVM_EXIT_IO_OUT 1
  %size.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_size
  %size = load i8, ptr %size.p
  %io.width = zext i8 %size to i32
  %port.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_port
  %port = load i16, ptr %port.p
  %io.address = zext i16 %port to i64
  %count.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_count
  %count = load i32, ptr %count.p
  %data_offset.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_data_offset
  %data_offset = load i64, ptr %data_offset.p
  %io.data = getelementptr i8, ptr %run, i64 %data_offset
  %io.now = call i64 @devc_now(ptr %bus) alwaysinline
  %io.deadline = load atomic i64, ptr %deadline.p monotonic, align 8
  %in_time = icmp ugt i64 %io.deadline, %io.now
  %single = icmp eq i32 %count, 1
  %simple = and i1 %in_time, %single
  br i1 %simple, label %look_up, label %by_record, !prof !1000

; What nearly every exit is: one access, wholly in a region that compiled code
; serves, which then wants nothing more. It needs no record.
look_up:
  %ports.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.ports
  %ports = load ptr, ptr %ports.p
  %number.p = getelementptr i16, ptr %ports, i64 %io.address
  %number16 = load i16, ptr %number.p
  %number = zext i16 %number16 to i32
  %region = call ptr @region(ptr %bus, i32 %number)
  %flags.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.flags
  %flags = load i32, ptr %flags.p
  %base.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.base
  %base = load i64, ptr %base.p
  %region.size.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.size
  %region.size = load i64, ptr %region.size.p
  %offset = sub i64 %io.address, %base
  %room = sub i64 %region.size, %offset
  %width64 = zext i8 %size to i64
  %somebody = icmp ne i32 %number, 0
  %fits = icmp ule i64 %width64, %room
  %splits = and i32 %flags, $REGION_SPLIT
  %whole = icmp eq i32 %splits, 0
  %is_byte = icmp eq i8 %size, 1
  %in_one = or i1 %whole, %is_byte
  %python = and i32 %flags, $REGION_PYTHON
  %compiled = icmp eq i32 %python, 0
  %inside = and i1 %somebody, %fits
  %servable = and i1 %in_one, %compiled
  %swift = and i1 %inside, %servable
  br i1 %swift, label %serve, label %by_record, !prof !1000

serve:
  %offset32 = trunc i64 %offset to i32
  %is_out = icmp ne i8 %direction, 0
  br i1 %is_out, label %out, label %in

in:
  %read = call { i64, i32 } @read_piece(ptr %bus, ptr %vcpu, ptr %region, i64 %io.now, i32 %offset32, i32 %io.width)
  %answer = extractvalue { i64, i32 } %read, 0
  %read.left = extractvalue { i64, i32 } %read, 1
  call void @store_bytes(ptr %io.data, i32 %io.width, i64 %answer)
  br label %served

out:
  %written = call i64 @load_bytes(ptr %io.data, i32 %io.width)
  %write.left = call i32 @write_piece(ptr %bus, ptr %vcpu, ptr %region, i64 %io.now, i32 %offset32, i32 %io.width, i64 %written)
  br label %served

served:
  %result = phi i64 [ %answer, %in ], [ 0, %out ]
  %unserved = phi i32 [ %read.left, %in ], [ %write.left, %out ]
  %calm = icmp eq i32 %unserved, 0
  br i1 %calm, label %light, label %more, !prof !1000

light:
  call void @count_light(ptr %vcpu, ptr %region, i64 %offset, i32 %io.write)
  br label %prepare

; There is more to do: as if the record had been there. It has the instant already
; at which the access took place.
more:
  %served_at = load i64, ptr %access.now.p
  call void @begin(ptr %vcpu, i64 %served_at, i32 $IO, i64 %io.address, i32 %io.width, i32 %io.write, ptr %io.data, i32 1)
  %claimed.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.claimed
  store i32 1, ptr %claimed.p
  %noted = call i32 @conclude(ptr %bus, ptr %vcpu, i32 %number, ptr %region, i64 %offset, i32 %io.width, i64 %result, i32 %unserved)
  br label %access

by_record:
  call void @begin(ptr %vcpu, i64 %io.now, i32 $IO, i64 %io.address, i32 %io.width, i32 %io.write, ptr %io.data, i32 %count)
  br label %arrived

mmio:
  %physical.p = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.phys_addr
  %physical = load i64, ptr %physical.p
  %length.p = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.len
  %length = load i32, ptr %length.p
  %is_write.p = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.is_write
  %is_write = load i8, ptr %is_write.p
  %mmio.write = zext i8 %is_write to i32
  %mmio.data = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.data
  %mmio.now = call i64 @devc_now(ptr %bus) alwaysinline
  call void @begin(ptr %vcpu, i64 %mmio.now, i32 $MMIO, i64 %physical, i32 %length, i32 %mmio.write, ptr %mmio.data, i32 1)
  br label %arrived

arrived:
  %deadline = load atomic i64, ptr %deadline.p monotonic, align 8
  %arrival = load i64, ptr %access.now.p
  %overtaken = icmp ule i64 %deadline, %arrival
  br i1 %overtaken, label %settle_first, label %access, !prof !1001

settle_first:
  store i32 $PHASE_SETTLE, ptr %phase.p
  br label %settle

access:
  %begun = phi i32 [ -1, %entry ], [ -1, %then_access ], [ -1, %arrived ], [ %noted, %more ]
  %complete = call i1 @go_on(ptr %vcpu, ptr %bus, i32 %begun)
  br i1 %complete, label %prepare, label %leave_attend, !prof !1000

failed:
  %negative = phi i64 [ %result.of_run, %after ], [ %delivered, %undelivered ]
  switch i64 %negative, label %leave_error [
    i64 -4, label %interrupted ; EINTR
    i64 -11, label %prepare ; EAGAIN
  ]

; A signal: the timer's or `stop`'s, taken here; or one for Python. Who asks for
; something says so first, and then sets immediate_exit: so this is the other way
; round, and none is lost.
interrupted:
  call void @take_wake(ptr %immediate.p)
  call void @add_one(ptr %interrupted.p)
  br label %woken

woken:
  %stop_now = load atomic i32, ptr %stop.p monotonic, align 4
  %stopped = icmp ne i32 %stop_now, 0
  br i1 %stopped, label %which_stop, label %paused

which_stop:
  %stop_taken = atomicrmw xchg ptr %stop.p, i32 0 monotonic
  %for_time = icmp eq i32 %stop_taken, $STOP_TIME
  br i1 %for_time, label %leave_time, label %leave_stopped

paused:
  %pause_now = load atomic i32, ptr %pause.p monotonic, align 4
  %is_paused = icmp ne i32 %pause_now, 0
  br i1 %is_paused, label %leave_paused, label %others

; The timer may have fired, and is armed no more. It is the first vCPU's, and so are
; signals for Python.
others:
  br i1 %is_first, label %breathe, label %rearm

breathe:
  store atomic i64 0, ptr %armed.p monotonic, align 8
  %looked = load i64, ptr %looked.p
  %host_now = call i64 @host_now(ptr %bus)
  %since = sub i64 %host_now, %looked
  %long = icmp uge i64 %since, $BLIND
  br i1 %long, label %leave_signal, label %signals_wait

signals_wait:
  %asked = call i64 @syscall(i64 127, i64 %signals.at, i64 8, i64 0, i64 0) ; rt_sigpending
  %waiting = load i64, ptr %signals
  %blocked_outside = xor i64 %mask, -1
  %for_python = and i64 %waiting, %blocked_outside
  %any = icmp ne i64 %for_python, 0
  br i1 %any, label %leave_signal, label %rearm

; A halted guest had its grace asleep: a deadline that brought it no interrupt must
; not keep the next from being settled.
rearm:
  store i32 0, ptr %settled.p
  store atomic i32 1, ptr %moved.p monotonic, align 4
  br label %prepare

begin_halt:
  store i32 1, ptr %halted.p
  ; The clock is looked at again, since the timer may not be armed for %until.
  store atomic i32 1, ptr %moved.p monotonic, align 4
  br label %prepare

; The guest waits. An interrupt it accepts wakes it; else sleep until a deadline
; or a signal, if there is a deadline to wait for.
halt:
  %if_flag = load i8, ptr %if_flag.p
  %accepts = icmp ne i8 %if_flag, 0
  %pending = load i32, ptr %pending.p
  %intr = load atomic i32, ptr %intr.p monotonic, align 4
  %waits = or i32 %pending, %intr
  %queued = icmp ne i32 %waits, 0
  %wakes = and i1 %accepts, %queued
  br i1 %wakes, label %wake_up, label %asleep

wake_up:
  store i32 0, ptr %halted.p
  br label %enter

asleep:
  %halt_stop = load atomic i64, ptr %stop.p monotonic, align 8
  %halt_stopped = icmp ne i64 %halt_stop, 0
  br i1 %halt_stopped, label %woken, label %hope

; Nothing to come, or a guest that is not listening.
hope:
  %armed = load atomic i64, ptr %armed.p monotonic, align 8
  %never = icmp eq i64 %armed, $NEVER
  %deaf = xor i1 %accepts, true
  %hopeless = or i1 %never, %deaf
  br i1 %hopeless, label %leave_halted, label %sleep

; The wake signal is held back, so that it ends the sleep even if it comes before.
sleep:
  %held = call i64 @syscall(i64 14, i64 0, i64 %wake.at, i64 0, i64 8) ; rt_sigprocmask, SIG_BLOCK
  %came = load atomic i8, ptr %immediate.p seq_cst, align 1
  %rang = icmp ne i8 %came, 0
  br i1 %rang, label %slept, label %doze

doze:
  %signal_fd.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.signal_fd
  %signal_fd = load i32, ptr %signal_fd.p
  store i32 %signal_fd, ptr %poll
  %events.p = getelementptr { i32, i16, i16 }, ptr %poll, i32 0, i32 1
  store i16 1, ptr %events.p ; POLLIN
  %polled = call i64 @sleep_timed(ptr %vcpu, ptr %bus, i64 %poll.at, i64 %mask.at)
  %signalled = icmp eq i64 %polled, -4
  br i1 %signalled, label %leave_signal, label %rung

rung:
  call void @take_signals(ptr %vm)
  br label %slept

slept:
  call void @take_wake(ptr %immediate.p)
  %freed = call i64 @syscall(i64 14, i64 1, i64 %wake.at, i64 0, i64 8) ; rt_sigprocmask, SIG_UNBLOCK
  br label %woken

leave_attend:
  ret i32 $LEAVE_ATTEND

leave_acknowledge:
  ret i32 $LEAVE_ACKNOWLEDGE

leave_eoi:
  ret i32 $LEAVE_EOI

leave_paused:
  ret i32 $LEAVE_PAUSED

leave_signal:
  ret i32 $LEAVE_SIGNAL

leave_stopped:
  ret i32 $LEAVE_STOPPED

leave_time:
  ret i32 $LEAVE_TIME

leave_halted:
  ret i32 $LEAVE_HALTED

leave_exit:
  ret i32 $LEAVE_EXIT

leave_error:
  %positive = sub i64 0, %negative
  %errno = trunc i64 %positive to i32
  store i32 %errno, ptr %error.p
  ret i32 $LEAVE_ERROR
}

; Run the guest; a LEAVE number. Meanwhile all signals are blocked but the wake
; signal and those of faults. The wake signal stays blocked afterwards.
define i32 @devc_kvm_loop(ptr %vcpu) {
  %blocked.p = alloca i64
  %old.p = alloca i64
  %vm.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.vm
  %vm = load ptr, ptr %vm.p
  %wake.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.wake
  %wake = load i64, ptr %wake.p
  %not_wake = xor i64 %wake, -1
  ; Not SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV (4, 5, 7, 8, 11; signal n is bit n-1).
  %blocked = and i64 %not_wake, -1241
  store i64 %blocked, ptr %blocked.p
  %blocked.at = ptrtoint ptr %blocked.p to i64
  %old.at = ptrtoint ptr %old.p to i64
  %block = call i64 @syscall(i64 14, i64 2, i64 %blocked.at, i64 %old.at, i64 8) ; rt_sigprocmask, SIG_SETMASK
  %old = load i64, ptr %old.p
  %outside = or i64 %old, %wake
  store i64 %outside, ptr %old.p
  %leave = call i32 @drive(ptr %vcpu, i64 %outside)
  %restore = call i64 @syscall(i64 14, i64 2, i64 %old.at, i64 0, i64 8)
  ret i32 %leave
}
