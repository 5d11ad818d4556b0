; The trap dispatcher: who is at an address, and calling their handler.
;
; The structures come from bus.py. Everything is reached through %bus and
; %access; there is no global state, so several machines and threads can use
; one copy of this code.

; The entry number of who claims the byte at %address, 0 if nobody does.
define internal i32 @find(ptr %bus, ptr %access, i64 %address) alwaysinline {
  %space.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.space
  %space = load i32, ptr %space.p
  %is_io = icmp eq i32 %space, $IO
  br i1 %is_io, label %io, label %mmio

io:
  %in_range = icmp ult i64 %address, $PORTS
  br i1 %in_range, label %port, label %nobody, !prof !1000

port:
  %ports.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.ports
  %ports = load ptr, ptr %ports.p
  %port.p = getelementptr i16, ptr %ports, i64 %address
  %port.entry = load i16, ptr %port.p
  %port.number = zext i16 %port.entry to i32
  ret i32 %port.number

mmio:
  %windows.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.windows
  %windows = load ptr, ptr %windows.p
  ; Guests poke one device in runs. The hint may be stale, but it stays within
  ; the array's capacity, which never shrinks; unused windows have size 0 and
  ; match nothing, and so has the first, which holds their number: whoever has
  ; the array has all of it, even if another takes its place.
  %hint.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.hint
  %hint = load i32, ptr %hint.p
  %hot = getelementptr %Window, ptr %windows, i32 %hint
  %hot.base = load i64, ptr %hot
  %hot.size.p = getelementptr %Window, ptr %hot, i32 0, i32 $Window.size
  %hot.size = load i64, ptr %hot.size.p
  %hot.offset = sub i64 %address, %hot.base
  %hot.hit = icmp ult i64 %hot.offset, %hot.size
  br i1 %hot.hit, label %again, label %search, !prof !1000

again:
  %hot.entry.p = getelementptr %Window, ptr %hot, i32 0, i32 $Window.entry
  %hot.entry = load i32, ptr %hot.entry.p
  ret i32 %hot.entry

search:
  %count.wide = load i64, ptr %windows
  %count = trunc i64 %count.wide to i32
  %end = add i32 %count, 1
  br label %halve

; Invariant: every window before %low begins at or below %address, every window
; from %high on begins above it.
halve:
  %low = phi i32 [ 1, %search ], [ %next.low, %compare ]
  %high = phi i32 [ %end, %search ], [ %next.high, %compare ]
  %more = icmp ult i32 %low, %high
  br i1 %more, label %compare, label %found

compare:
  %sum = add i32 %low, %high
  %middle = lshr i32 %sum, 1
  %middle.p = getelementptr %Window, ptr %windows, i32 %middle
  %middle.base = load i64, ptr %middle.p
  %below = icmp ule i64 %middle.base, %address
  %above.middle = add i32 %middle, 1
  %next.low = select i1 %below, i32 %above.middle, i32 %low
  %next.high = select i1 %below, i32 %high, i32 %middle
  br label %halve

found:
  %none = icmp eq i32 %low, 1
  br i1 %none, label %nobody, label %candidate

candidate:
  %last = sub i32 %low, 1
  %window = getelementptr %Window, ptr %windows, i32 %last
  %base = load i64, ptr %window
  %size.p = getelementptr %Window, ptr %window, i32 0, i32 $Window.size
  %size = load i64, ptr %size.p
  %offset = sub i64 %address, %base
  %inside = icmp ult i64 %offset, %size
  br i1 %inside, label %hit, label %nobody

hit:
  store i32 %last, ptr %hint.p
  %entry.p = getelementptr %Window, ptr %window, i32 0, i32 $Window.entry
  %entry = load i32, ptr %entry.p
  ret i32 %entry

nobody:
  ret i32 0
}

define internal ptr @region(ptr %bus, i32 %number) alwaysinline {
  %entries.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.entries
  %entries = load ptr, ptr %entries.p
  %entry = getelementptr %RegionEntry, ptr %entries, i32 %number
  ret ptr %entry
}

define internal i64 @ones(i32 %width) alwaysinline {
  %bits = shl i32 %width, 3
  %unused = sub i32 64, %bits
  %shift = zext i32 %unused to i64
  %mask = lshr i64 -1, %shift
  ret i64 %mask
}

; Add 1 to the counter of (%offset, heavy or light, write or read) in the thread's lane.
define internal void @count_access(ptr %access, ptr %entry, i64 %offset, i32 %write, i32 %heavy) alwaysinline {
  %counted.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.counted
  %counted = load i32, ptr %counted.p
  %last = sub i32 %counted, 1
  %last.wide = zext i32 %last to i64
  %beyond = icmp ugt i64 %offset, %last.wide
  %index = select i1 %beyond, i64 %last.wide, i64 %offset
  %lane.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.lane
  %lane = load i32, ptr %lane.p
  %rows.before = mul i32 %counted, %lane
  %rows.wide = zext i32 %rows.before to i64
  %counters.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.counters
  %counters = load ptr, ptr %counters.p
  %own = getelementptr %Counters, ptr %counters, i64 %rows.wide
  %row = getelementptr %Counters, ptr %own, i64 %index
  %heavy.column = shl i32 %heavy, 1
  %column = or i32 %heavy.column, %write
  %counter.p = getelementptr i64, ptr %row, i32 %column
  %counter = load i64, ptr %counter.p
  %one_more = add i64 %counter, 1
  store i64 %one_more, ptr %counter.p
  call void @end_timing(ptr %access, ptr %row, i32 %column)
  ret void
}

define internal void @count_light(ptr %access, ptr %entry, i64 %offset, i32 %write) alwaysinline {
  call void @count_access(ptr %access, ptr %entry, i64 %offset, i32 %write, i32 0)
  ret void
}

; Python is needed: say where, who and what.
define internal void @stop(ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece, i32 %wanted, i32 %outcome) cold {
  %write.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.write
  %write = load i32, ptr %write.p
  call void @count_access(ptr %access, ptr %entry, i64 %offset, i32 %write, i32 1)
  %attention.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.attention
  store i32 %wanted, ptr %attention.p
  %entry.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.entry
  store i32 %number, ptr %entry.p
  %offset.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.offset
  store i64 %offset, ptr %offset.p
  %piece.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.piece
  store i32 %piece, ptr %piece.p
  %device.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.device
  %device = load i32, ptr %device.p
  %device.out = getelementptr %Access, ptr %access, i32 0, i32 $Access.device
  store i32 %device, ptr %device.out
  %outcome.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.outcome
  store i32 %outcome, ptr %outcome.p
  ret void
}

; Read %width bytes at %offset of a region that compiled code serves, under the
; device's lock unless the read is quiet. The answer, and what is left for Python (attention bits; 0: nothing).
define internal { i64, i32 } @read_piece(ptr %bus, ptr %access, ptr %entry, i64 %now, i32 %offset, i32 %width) alwaysinline {
  call void @begin_timing(ptr %bus, ptr %access)
  %state.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.state
  %state = load ptr, ptr %state.p
  %read.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.read
  %read = load ptr, ptr %read.p
  %quiet.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.quiet
  %quiet = load ptr, ptr %quiet.p
  %never_quiet = icmp eq ptr %quiet, null
  br i1 %never_quiet, label %lock, label %quietly

quietly:
  %quiet.read = call { i64, i1 } @read_quietly(ptr %quiet, ptr %access, ptr %state, ptr %read, i64 %now, i32 %offset, i32 %width)
  %answered = extractvalue { i64, i1 } %quiet.read, 1
  %quiet.answer = extractvalue { i64, i1 } %quiet.read, 0
  br i1 %answered, label %alone, label %lock

alone:
  %alone.answer = insertvalue { i64, i32 } { i64 0, i32 0 }, i64 %quiet.answer, 0
  ret { i64, i32 } %alone.answer

lock:
  call void @hold(ptr %state)
  %at = call i64 @arrival(ptr %state, i64 %now)
  %answer = call i64 %read(ptr %state, i64 %at, i32 %offset, i32 %width)
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %calm = icmp eq i32 %attention, 0
  br i1 %calm, label %light, label %more, !prof !1000

light:
  call void @let_go(ptr %state)
  %light.answer = insertvalue { i64, i32 } { i64 0, i32 0 }, i64 %answer, 0
  ret { i64, i32 } %light.answer

more:
  %finished = call { i64, i32 } @finish(ptr %bus, ptr %access, ptr %entry, i64 %at, i32 %offset, i32 %width, i32 0, i64 0, i64 %answer)
  ret { i64, i32 } %finished
}

; Write as @read_piece reads; what is left for Python.
define internal i32 @write_piece(ptr %bus, ptr %access, ptr %entry, i64 %now, i32 %offset, i32 %width, i64 %value) alwaysinline {
  call void @begin_timing(ptr %bus, ptr %access)
  %state.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.state
  %state = load ptr, ptr %state.p
  %write.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.write
  %write = load ptr, ptr %write.p
  call void @hold(ptr %state)
  %at = call i64 @arrival(ptr %state, i64 %now)
  call void %write(ptr %state, i64 %at, i32 %offset, i32 %width, i64 %value)
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %calm = icmp eq i32 %attention, 0
  br i1 %calm, label %light, label %more, !prof !1000

light:
  call void @let_go(ptr %state)
  ret i32 0

more:
  %finished = call { i64, i32 } @finish(ptr %bus, ptr %access, ptr %entry, i64 %at, i32 %offset, i32 %width, i32 1, i64 %value, i64 0)
  %left = extractvalue { i64, i32 } %finished, 1
  ret i32 %left
}

; After a handler that wants something: compiled handlers of Python parts, the
; deadline, lines with native sinks. Called with the device's lock held, returns
; without it: the answer, and what is left for Python.
define internal { i64, i32 } @finish(ptr %bus, ptr %access, ptr %entry, i64 %now, i32 %offset, i32 %width, i32 %write, i64 %value, i64 %answer) noinline {
  %now.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.now
  store i64 %now, ptr %now.p
  %number.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.device
  %number = load i32, ptr %number.p
  %state.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.state
  %state = load ptr, ptr %state.p
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %leave_bit = and i32 %attention, $ATTENTION_LEAVE
  %leaves = icmp ne i32 %leave_bit, 0
  br i1 %leaves, label %left, label %sort

; A compiled handler may serve what the region left; LEAVE remains if none does.
left:
  %leave.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.leave
  %leave = load i32, ptr %leave.p
  %leave.out = getelementptr %Access, ptr %access, i32 0, i32 $Access.leave
  store i32 %leave, ptr %leave.out
  %rest = xor i32 %attention, $ATTENTION_LEAVE
  store i32 %rest, ptr %attention.p
  %served = call { i1, i64 } @serve_compiled(ptr %bus, ptr %entry, ptr %state, i32 %write, i64 %now, i32 %offset, i32 %width, i64 %value)
  %was_served = extractvalue { i1, i64 } %served, 0
  %compiled.answer = extractvalue { i1, i64 } %served, 1
  %still_left = select i1 %was_served, i32 0, i32 $ATTENTION_LEAVE
  br label %sort

sort:
  %unserved = phi i32 [ 0, %0 ], [ %still_left, %left ]
  %final = phi i64 [ %answer, %0 ], [ %compiled.answer, %left ]
  %wanted = call i32 @settle_attention(ptr %bus, i32 %number, ptr %state, i64 %now)
  %all = or i32 %wanted, %unserved
  %with_answer = insertvalue { i64, i32 } poison, i64 %final, 0
  %result = insertvalue { i64, i32 } %with_answer, i32 %all, 1
  ret { i64, i32 } %result
}

; A piece was served, or tried, and %left of it is for Python: take note in the record.
define internal i32 @conclude(ptr %bus, ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece, i64 %answer, i32 %left) alwaysinline {
  %write.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.write
  %write = load i32, ptr %write.p
  %is_write = icmp ne i32 %write, 0
  %done.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.done
  %done = load i32, ptr %done.p
  %value.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.value
  %value = load i64, ptr %value.p
  %leave_bit = and i32 %left, $ATTENTION_LEAVE
  %leaves = icmp ne i32 %leave_bit, 0
  br i1 %leaves, label %heavy, label %merge, !prof !1001

merge:
  %mask = call i64 @ones(i32 %piece)
  %bits = shl i32 %done, 3
  %shift = zext i32 %bits to i64
  %masked = and i64 %answer, %mask
  %placed = shl i64 %masked, %shift
  %merged = or i64 %value, %placed
  %new_value = select i1 %is_write, i64 %value, i64 %merged
  store i64 %new_value, ptr %value.p
  %new_done = add i32 %done, %piece
  store i32 %new_done, ptr %done.p
  %calm = icmp eq i32 %left, 0
  br i1 %calm, label %light, label %told, !prof !1000

light:
  call void @count_access(ptr %access, ptr %entry, i64 %offset, i32 %write, i32 0)
  ret i32 $SERVED

heavy:
  call void @stop(ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece, i32 %left, i32 $HEAVY)
  ret i32 $HEAVY

told:
  call void @stop(ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece, i32 %left, i32 $ATTENTION)
  ret i32 $ATTENTION
}

; Serve %piece bytes at %offset in a region. SERVED, ATTENTION or HEAVY.
define internal i32 @serve(ptr %bus, ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece) alwaysinline {
  %write.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.write
  %write = load i32, ptr %write.p
  %flags.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.flags
  %flags = load i32, ptr %flags.p
  %python = and i32 %flags, $REGION_PYTHON
  %is_native = icmp eq i32 %python, 0
  br i1 %is_native, label %native, label %heavy, !prof !1000

native:
  %now.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.now
  %now = load i64, ptr %now.p
  %offset32 = trunc i64 %offset to i32
  %is_write = icmp ne i32 %write, 0
  br i1 %is_write, label %do_write, label %do_read

do_write:
  %done.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.done
  %done = load i32, ptr %done.p
  %value.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.value
  %value = load i64, ptr %value.p
  %mask = call i64 @ones(i32 %piece)
  %bits = shl i32 %done, 3
  %shift = zext i32 %bits to i64
  %shifted = lshr i64 %value, %shift
  %written = and i64 %shifted, %mask
  %write.left = call i32 @write_piece(ptr %bus, ptr %access, ptr %entry, i64 %now, i32 %offset32, i32 %piece, i64 %written)
  br label %after

do_read:
  %read = call { i64, i32 } @read_piece(ptr %bus, ptr %access, ptr %entry, i64 %now, i32 %offset32, i32 %piece)
  %answer = extractvalue { i64, i32 } %read, 0
  %read.left = extractvalue { i64, i32 } %read, 1
  br label %after

after:
  %result = phi i64 [ 0, %do_write ], [ %answer, %do_read ]
  %left = phi i32 [ %write.left, %do_write ], [ %read.left, %do_read ]
  %outcome = call i32 @conclude(ptr %bus, ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece, i64 %result, i32 %left)
  ret i32 %outcome

heavy:
  call void @stop(ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %piece, i32 0, i32 $HEAVY)
  ret i32 $HEAVY
}

; Go on with an access from its byte %done. An access that does not lie wholly
; in one region, or in a region that asks for it, is made of its bytes, low
; address first (at most 8).
define i32 @devc_access(ptr %bus, ptr %access) {
  %address.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.address
  %address = load i64, ptr %address.p
  %width.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.width
  %width = load i32, ptr %width.p
  %done.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.done
  %done.first = load i32, ptr %done.p
  %claimed.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.claimed
  %fresh = icmp eq i32 %done.first, 0
  br i1 %fresh, label %look_up, label %bytes, !prof !1000

look_up:
  %number = call i32 @find(ptr %bus, ptr %access, i64 %address)
  %entry = call ptr @region(ptr %bus, i32 %number)
  %base.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.base
  %base = load i64, ptr %base.p
  %size.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.size
  %size = load i64, ptr %size.p
  %flags.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.flags
  %flags = load i32, ptr %flags.p
  %offset = sub i64 %address, %base
  %room = sub i64 %size, %offset
  %width.wide = zext i32 %width to i64
  %fits = icmp ule i64 %width.wide, %room
  %somebody = icmp ne i32 %number, 0
  %split = and i32 %flags, $REGION_SPLIT
  %splits = icmp ne i32 %split, 0
  %wide = icmp ne i32 %width, 1
  %to_split = and i1 %splits, %wide
  %in_one = xor i1 %to_split, true
  %inside = and i1 %somebody, %fits
  %whole = and i1 %inside, %in_one
  br i1 %whole, label %at_once, label %bytes, !prof !1000

at_once:
  store i32 1, ptr %claimed.p
  %outcome = call i32 @serve(ptr %bus, ptr %access, i32 %number, ptr %entry, i64 %offset, i32 %width)
  ret i32 %outcome

bytes:
  %done = load i32, ptr %done.p
  %left = icmp ult i32 %done, %width
  br i1 %left, label %byte, label %finished

byte:
  %done.wide = zext i32 %done to i64
  %byte.address = add i64 %address, %done.wide
  %byte.number = call i32 @find(ptr %bus, ptr %access, i64 %byte.address)
  %nobody = icmp eq i32 %byte.number, 0
  br i1 %nobody, label %byte.open, label %byte.served

byte.served:
  store i32 1, ptr %claimed.p
  %byte.entry = call ptr @region(ptr %bus, i32 %byte.number)
  %byte.base.p = getelementptr %RegionEntry, ptr %byte.entry, i32 0, i32 $RegionEntry.base
  %byte.base = load i64, ptr %byte.base.p
  %byte.offset = sub i64 %byte.address, %byte.base
  %byte.outcome = call i32 @serve(ptr %bus, ptr %access, i32 %byte.number, ptr %byte.entry, i64 %byte.offset, i32 1)
  %byte.light = icmp eq i32 %byte.outcome, $SERVED
  br i1 %byte.light, label %bytes, label %byte.stop

byte.stop:
  ret i32 %byte.outcome

; A floating bus reads as ones.
byte.open:
  %direction.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.write
  %direction = load i32, ptr %direction.p
  %reads = icmp eq i32 %direction, 0
  %value.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.value
  %value = load i64, ptr %value.p
  %bits = shl i64 %done.wide, 3
  %float = select i1 %reads, i64 255, i64 0
  %lane = shl i64 %float, %bits
  %open = or i64 %value, %lane
  store i64 %open, ptr %value.p
  %next = add i32 %done, 1
  store i32 %next, ptr %done.p
  br label %bytes

finished:
  %claimed = load i32, ptr %claimed.p
  %was_claimed = icmp ne i32 %claimed, 0
  br i1 %was_claimed, label %served, label %unclaimed

served:
  ret i32 $SERVED

unclaimed:
  %write.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.write
  %write = load i32, ptr %write.p
  %unclaimed.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.unclaimed_reads
  %counter.p = getelementptr i64, ptr %unclaimed.p, i32 %write
  %counter = atomicrmw add ptr %counter.p, i64 1 monotonic
  ret i32 $UNCLAIMED
}

; What an access is like nearly always: so that its code is in one piece.
!1000 = !{!"branch_weights", i32 1000, i32 1}
!1001 = !{!"branch_weights", i32 1, i32 1000}
