; Time: the present instant, the earliest deadline, and settling what is due. Goes after
; dispatch.ll.

; The present virtual instant in ns.
define i64 @devc_now(ptr %bus) {
  %time = alloca { i64, i64 } ; struct timespec
  %clock = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock
  %base.p = getelementptr %ClockBlock, ptr %clock, i32 0, i32 $ClockBlock.base
  %base = load i64, ptr %base.p
  %mode.p = getelementptr %ClockBlock, ptr %clock, i32 0, i32 $ClockBlock.mode
  %mode = load i32, ptr %mode.p
  %running = icmp eq i32 %mode, $CLOCK_RUNNING
  br i1 %running, label %ask, label %fixed, !prof !1000

fixed:
  ret i64 %base

ask:
  %gettime.p = getelementptr %ClockBlock, ptr %clock, i32 0, i32 $ClockBlock.gettime
  %gettime = load ptr, ptr %gettime.p
  %source.p = getelementptr %ClockBlock, ptr %clock, i32 0, i32 $ClockBlock.source
  %source = load i32, ptr %source.p
  %status = call i32 %gettime(i32 %source, ptr %time)
  %seconds = load i64, ptr %time
  %nanos.p = getelementptr { i64, i64 }, ptr %time, i32 0, i32 1
  %nanos = load i64, ptr %nanos.p
  %whole = mul i64 %seconds, 1000000000
  %monotonic = add i64 %whole, %nanos
  %now = add i64 %monotonic, %base
  ret i64 %now
}

; Find the earliest of all deadlines, note it on the bus. One scan at a time: an
; older result never replaces a newer one. A deadline moves before `moved` is set,
; so either the scan sees it or `moved` stays.
define i64 @devc_earliest(ptr %bus) {
entry:
  %scan.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.scan
  call void @take(ptr %scan.p)
  %moved.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.moved
  %was_moved = atomicrmw xchg ptr %moved.p, i32 0 seq_cst
  ; The number first: the array behind it is never shorter.
  %count.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.device_count
  %count = load atomic i32, ptr %count.p acquire, align 4
  %devices.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.devices
  %devices = load ptr, ptr %devices.p
  br label %loop

loop:
  %index = phi i32 [ 0, %entry ], [ %next, %continue ]
  %earliest = phi i64 [ $NEVER, %entry ], [ %earlier, %continue ]
  %left = icmp ult i32 %index, %count
  br i1 %left, label %look, label %end

look:
  %device = getelementptr %DeviceEntry, ptr %devices, i32 %index
  %state = load ptr, ptr %device
  %free = icmp eq ptr %state, null
  br i1 %free, label %continue, label %compare

compare:
  %own = load atomic i64, ptr %state monotonic, align 8
  %floor.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.floor
  %floor = load atomic i64, ptr %floor.p monotonic, align 8
  %held = icmp ult i64 %own, %floor
  %deadline = select i1 %held, i64 %floor, i64 %own
  %smaller = call i64 @llvm.umin.i64(i64 %deadline, i64 %earliest)
  br label %continue

continue:
  %earlier = phi i64 [ %earliest, %look ], [ %smaller, %compare ]
  %next = add i32 %index, 1
  br label %loop

end:
  %deadline.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.deadline
  store atomic i64 %earliest, ptr %deadline.p monotonic, align 8
  call void @release(ptr %scan.p)
  ret i64 %earliest
}

; Settle, at access.now, every device from number access.done on whose deadline
; has come, each once. Another thread may be at it too: who comes second to a device
; finds nothing due. Stops after one that wants attention (ATTENTION), or at
; one that only Python can settle (HEAVY); SERVED when all are through.
define i32 @devc_settle(ptr %bus, ptr %access) {
entry:
  %now.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.now
  %now = load i64, ptr %now.p
  %cursor.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.done
  %cursor = load i32, ptr %cursor.p
  ; The number first: the array behind it is never shorter.
  %count.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.device_count
  %count = load atomic i32, ptr %count.p acquire, align 4
  %devices.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.devices
  %devices = load ptr, ptr %devices.p
  br label %loop

loop:
  %index = phi i32 [ %cursor, %entry ], [ %next, %look ], [ %next, %due ], [ %next, %no_more ], [ %next, %settle ]
  %next = add i32 %index, 1
  %left = icmp ult i32 %index, %count
  br i1 %left, label %look, label %end

look:
  %device = getelementptr %DeviceEntry, ptr %devices, i32 %index
  %state = load ptr, ptr %device
  %free = icmp eq ptr %state, null
  br i1 %free, label %loop, label %due

due:
  %own = load atomic i64, ptr %state monotonic, align 8
  %floor.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.floor
  %floor = load atomic i64, ptr %floor.p monotonic, align 8
  %held = icmp ult i64 %own, %floor
  %deadline = select i1 %held, i64 %floor, i64 %own
  %is_due = icmp ule i64 %deadline, %now
  br i1 %is_due, label %who, label %loop

who:
  %settle.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.settle
  %settle_fn = load ptr, ptr %settle.p
  %python = icmp eq ptr %settle_fn, null
  br i1 %python, label %heavy, label %claim

heavy:
  call void @deadline_moved(ptr %bus)
  br label %stop

claim:
  call void @hold(ptr %state)
  %present = load i64, ptr %state
  %still_due = icmp ule i64 %present, %now
  br i1 %still_due, label %settle, label %no_more

no_more:
  call void @let_go(ptr %state)
  br label %loop

settle:
  %meant = call i64 @llvm.umax.i64(i64 %present, i64 %floor)
  %late = call i64 @llvm.usub.sat.i64(i64 %now, i64 %meant)
  call void @note_late(ptr %device, i64 %late)
  %at = call i64 @arrival(ptr %state, i64 %now)
  call void %settle_fn(ptr %state, i64 %at)
  call void @deadline_moved(ptr %bus)
  %attention = call i32 @settle_attention(ptr %bus, i32 %index, ptr %state, i64 %at)
  %calm = icmp eq i32 %attention, 0
  br i1 %calm, label %loop, label %stop

stop:
  %outcome = phi i32 [ $HEAVY, %heavy ], [ $ATTENTION, %settle ]
  %wanted = phi i32 [ 0, %heavy ], [ %attention, %settle ]
  store i32 %next, ptr %cursor.p
  %device.out = getelementptr %Access, ptr %access, i32 0, i32 $Access.device
  store i32 %index, ptr %device.out
  %attention.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.attention
  store i32 %wanted, ptr %attention.p
  %entry.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.entry
  store i32 0, ptr %entry.p
  %outcome.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.outcome
  store i32 %outcome, ptr %outcome.p
  ret i32 %outcome

end:
  ret i32 $SERVED
}

; A device was woken %late ns after its deadline: count it by its highest bit. Under
; the device's lock.
define internal void @note_late(ptr %device, i64 %late) {
  %lateness.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.lateness
  %lateness = load ptr, ptr %lateness.p
  %positive = or i64 %late, 1
  %zeros = call i64 @llvm.ctlz.i64(i64 %positive, i1 true)
  %bucket = sub i64 63, %zeros
  %capped = call i64 @llvm.umin.i64(i64 %bucket, i64 $LAST_BUCKET)
  %counts = getelementptr %Lateness, ptr %lateness, i32 0, i32 $Lateness.counts
  %count.p = getelementptr i64, ptr %counts, i64 %capped
  %count = load i64, ptr %count.p
  %one_more = add i64 %count, 1
  store i64 %one_more, ptr %count.p
  %most = load i64, ptr %lateness
  %new_most = call i64 @llvm.umax.i64(i64 %most, i64 %late)
  store i64 %new_most, ptr %lateness
  ret void
}

; Tell that a deadline moved: after it did, so that nobody looks in vain.
define internal void @deadline_moved(ptr %bus) alwaysinline {
  %moved.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.moved
  store atomic i32 1, ptr %moved.p release, align 4
  ret void
}

declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.usub.sat.i64(i64, i64)
declare i64 @llvm.ctlz.i64(i64, i1)
