; What Unicorn calls: a guest's accesses, and the start of each block of code.
;
; Goes after dispatch.ll in one module. %host is the user data of every hook.
; Python is called (through %host, with a CALL number) only for what is heavy,
; for deadlines that want attention, and now and then to let signals in.

define internal void @call_python(ptr %host, i32 %what) {
  %python.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.python
  %python = load ptr, ptr %python.p
  call void %python(i32 %what)
  ret void
}

define internal void @stop_emulation(ptr %host) {
  %uc.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.uc
  %uc = load ptr, ptr %uc.p
  %emu_stop.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.emu_stop
  %emu_stop = load ptr, ptr %emu_stop.p
  %status = call i32 %emu_stop(ptr %uc)
  ret void
}

; Have Python look after the access. Should it fail to (a signal handler may
; raise anywhere), the piece is completed here: ones if read, lost if written.
define internal void @attend_access(ptr %host) {
  call void @call_python(ptr %host, i32 $CALL_ATTEND)
  %outcome.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.outcome
  %outcome = load i32, ptr %outcome.p
  %unserved = icmp eq i32 %outcome, $HEAVY
  br i1 %unserved, label %complete, label %done

complete:
  store i32 $SERVED, ptr %outcome.p
  %piece.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.piece
  %piece = load i32, ptr %piece.p
  %done.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.done
  %before = load i32, ptr %done.p
  %after = add i32 %before, %piece
  store i32 %after, ptr %done.p
  %write.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.write
  %write = load i32, ptr %write.p
  %is_write = icmp ne i32 %write, 0
  br i1 %is_write, label %done, label %float

float:
  %ones = call i64 @ones(i32 %piece)
  %bits = shl i32 %before, 3
  %shift = zext i32 %bits to i64
  %lanes = shl i64 %ones, %shift
  %value.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.value
  %value = load i64, ptr %value.p
  %floating = or i64 %value, %lanes
  store i64 %floating, ptr %value.p
  br label %done

done:
  ret void
}

; Settle every device that is due at access.now; Python attends to those that ask.
define internal void @settle_all(ptr %host, ptr %bus) noinline {
  %cursor.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.done
  store i32 0, ptr %cursor.p
  br label %settling

settling:
  %outcome = call i32 @devc_settle(ptr %bus, ptr %host)
  %heavy = icmp uge i32 %outcome, $ATTENTION
  br i1 %heavy, label %attend, label %done

attend:
  call void @call_python(ptr %host, i32 $CALL_ATTEND)
  br label %settling

done:
  ret void
}

; One access of the guest; what it reads.
define internal i64 @guest_access(ptr %host, i32 %space, i64 %address, i32 %width, i32 %write, i64 %value) alwaysinline {
  %bus.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.bus
  %bus = load ptr, ptr %bus.p
  %now = call i64 @devc_now(ptr %bus)
  %now.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.now
  store i64 %now, ptr %now.p
  %space.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.space
  store i32 %space, ptr %space.p
  %address.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.address
  store i64 %address, ptr %address.p
  %width.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.width
  store i32 %width, ptr %width.p
  %write.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.write
  store i32 %write, ptr %write.p
  %value.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.value
  store i64 %value, ptr %value.p
  %done.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.done
  store i32 0, ptr %done.p
  %claimed.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.claimed
  store i32 0, ptr %claimed.p
  ; Deadlines that came before the access are dealt with first: devices are wired.
  %moved.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.moved
  %stale = load i32, ptr %moved.p
  %known = icmp eq i32 %stale, 0
  br i1 %known, label %compare, label %scan

scan:
  %scanned = call i64 @devc_earliest(ptr %bus)
  br label %compare

compare:
  %deadline.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.deadline
  %deadline = load i64, ptr %deadline.p
  %due = icmp ule i64 %deadline, %now
  br i1 %due, label %settle, label %serve

settle:
  call void @settle_all(ptr %host, ptr %bus)
  store i32 0, ptr %done.p
  br label %serve

serve:
  %outcome = call i32 @devc_access(ptr %bus, ptr %host)
  %heavy = icmp uge i32 %outcome, $ATTENTION
  br i1 %heavy, label %attend, label %served

attend:
  call void @attend_access(ptr %host)
  br label %serve

served:
  ; A deadline that moved is looked at when the next block begins.
  %moved = load i32, ptr %moved.p
  %still = icmp eq i32 %moved, 0
  br i1 %still, label %answer, label %soon

soon:
  %budget.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.budget
  store i32 0, ptr %budget.p
  br label %answer

answer:
  %result = load i64, ptr %value.p
  ret i64 %result
}

define i32 @devc_uc_in(ptr %uc, i32 %port, i32 %width, ptr %host) {
  %address = zext i32 %port to i64
  %value = call i64 @guest_access(ptr %host, i32 $IO, i64 %address, i32 %width, i32 0, i64 0)
  %narrow = trunc i64 %value to i32
  ret i32 %narrow
}

define void @devc_uc_out(ptr %uc, i32 %port, i32 %width, i32 %value, ptr %host) {
  %address = zext i32 %port to i64
  %wide = zext i32 %value to i64
  %nothing = call i64 @guest_access(ptr %host, i32 $IO, i64 %address, i32 %width, i32 1, i64 %wide)
  ret void
}

define internal i64 @physical(ptr %host, i64 %offset) alwaysinline {
  %base.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.mmio_base
  %base = load i64, ptr %base.p
  %address = add i64 %base, %offset
  ret i64 %address
}

define i64 @devc_uc_read(ptr %uc, i64 %offset, i32 %width, ptr %host) {
  %address = call i64 @physical(ptr %host, i64 %offset)
  %value = call i64 @guest_access(ptr %host, i32 $MMIO, i64 %address, i32 %width, i32 0, i64 0)
  ret i64 %value
}

define void @devc_uc_write(ptr %uc, i64 %offset, i32 %width, i64 %value, ptr %host) {
  %address = call i64 @physical(ptr %host, i64 %offset)
  %nothing = call i64 @guest_access(ptr %host, i32 $MMIO, i64 %address, i32 %width, i32 1, i64 %value)
  ret void
}

; A software interrupt or a fault: Python delivers it before the next block.
define void @devc_uc_interrupt(ptr %uc, i32 %number, ptr %host) {
  %trap.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.trap
  store i32 %number, ptr %trap.p
  call void @request_stop(ptr %host)
  ret void
}

; Stop before the next block, and at that place only: what Unicorn does with a
; stop in the middle of a block depends on the instruction.
define internal void @request_stop(ptr %host) {
  %leave.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.leave
  store i32 1, ptr %leave.p
  %budget.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.budget
  store i32 0, ptr %budget.p
  ret void
}

; Before each block of guest code. Everything but the countdown is done once in
; `slice` blocks, or when something made the budget 0.
define void @devc_uc_block(ptr %uc, i64 %address, i32 %size, ptr %host) {
  %budget.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.budget
  %budget = load atomic i32, ptr %budget.p monotonic, align 4
  %some = icmp ugt i32 %budget, 1
  br i1 %some, label %count, label %look

count:
  %less = sub i32 %budget, 1
  store atomic i32 %less, ptr %budget.p monotonic, align 4
  ret void

look:
  call void @between_blocks(ptr %uc, ptr %host)
  ret void
}

define internal void @between_blocks(ptr %uc, ptr %host) noinline {
  %flags = alloca i64
  %bus.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.bus
  %bus = load ptr, ptr %bus.p
  %budget.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.budget
  %slice.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.slice
  %slice = load i32, ptr %slice.p
  %stepping.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.stepping
  %stepping = load i32, ptr %stepping.p
  %steps = icmp ne i32 %stepping, 0
  br i1 %steps, label %done, label %leave_asked

leave_asked:
  %leave.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.leave
  %leave = load atomic i32, ptr %leave.p monotonic, align 4
  %leaves = icmp ne i32 %leave, 0
  br i1 %leaves, label %stop, label %refill

refill:
  store atomic i32 %slice, ptr %budget.p monotonic, align 4
  %breath.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.breath
  %breath = load i32, ptr %breath.p
  %shorter = sub i32 %breath, 1
  store i32 %shorter, ptr %breath.p
  %breathe_now = icmp eq i32 %shorter, 0
  br i1 %breathe_now, label %breathe, label %deadlines

breathe:
  store i32 $BREATH, ptr %breath.p
  call void @call_python(ptr %host, i32 $CALL_BREATHE)
  br label %deadlines

deadlines:
  %moved.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.moved
  %moved = load i32, ptr %moved.p
  %still = icmp eq i32 %moved, 0
  br i1 %still, label %compare, label %scan

scan:
  %scanned = call i64 @devc_earliest(ptr %bus)
  br label %compare

compare:
  %now = call i64 @devc_now(ptr %bus)
  %until.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.until
  %until = load i64, ptr %until.p
  %time = icmp ule i64 %until, %now
  br i1 %time, label %stop, label %due

; The guest gets %grace ns at least between two deadlines, however short its timers.
due:
  %deadline.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.deadline
  %deadline = load i64, ptr %deadline.p
  %come = icmp ule i64 %deadline, %now
  %settled.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.settled
  %settled = load i64, ptr %settled.p
  %grace.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.grace
  %grace = load i64, ptr %grace.p
  %since = sub i64 %now, %settled
  %had_grace = icmp uge i64 %since, %grace
  %settle_now = and i1 %come, %had_grace
  br i1 %settle_now, label %settle, label %pending

settle:
  store i64 %now, ptr %settled.p
  %now.p = getelementptr %Access, ptr %host, i32 0, i32 $Access.now
  store i64 %now, ptr %now.p
  call void @settle_all(ptr %host, ptr %bus)
  br label %pending

; With an interrupt queued, every block is looked at for a guest that accepts it.
pending:
  %pending.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.pending
  %queued = load atomic i32, ptr %pending.p monotonic, align 4
  %none = icmp eq i32 %queued, 0
  br i1 %none, label %left_meanwhile, label %accepts

accepts:
  store atomic i32 0, ptr %budget.p monotonic, align 4
  store i64 0, ptr %flags
  %reg_read.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.reg_read
  %reg_read = load ptr, ptr %reg_read.p
  %status = call i32 %reg_read(ptr %uc, i32 $EFLAGS, ptr %flags)
  %eflags = load i64, ptr %flags
  %if = and i64 %eflags, 512
  %open = icmp ne i64 %if, 0
  br i1 %open, label %stop, label %left_meanwhile

left_meanwhile:
  %leave.now = load atomic i32, ptr %leave.p monotonic, align 4
  %leaves.now = icmp ne i32 %leave.now, 0
  br i1 %leaves.now, label %stop, label %done

; `stopped` tells Python this from a guest that halted.
stop:
  %stopped.p = getelementptr %Emulation, ptr %host, i32 0, i32 $Emulation.stopped
  store i32 1, ptr %stopped.p
  call void @stop_emulation(ptr %host)
  br label %done

done:
  ret void
}
