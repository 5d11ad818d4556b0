; Edges of lines on their way to native sinks, without Python. Goes after dispatch.ll.
;
; A line's entry says what its sinks last saw, and is compared with the state under
; the device's lock. Sinks are called under no lock. One thread at a time delivers
; for a device (its table is `claimed`): who finds it claimed leaves its edges to that
; thread, which looks again before it ends. So no line's edges change places.

; After a call into a device, its lock held: note a moved deadline, have edges
; delivered. Lets the lock go. What is left for Python; it stays in the header too.
define internal i32 @settle_attention(ptr %bus, i32 %number, ptr %state, i64 %now) {
  %wants = call i32 @sort_attention(ptr %bus, i32 %number, ptr %state)
  call void @let_go(ptr %state)
  %claimed = icmp slt i32 %wants, 0
  br i1 %claimed, label %deliver, label %done

deliver:
  call void @deliver_all(ptr %bus, i32 %number, i64 %now)
  %own = and i32 %wants, $NOT_CLAIMED
  ; Python attends to whoever wants it, this device first.
  %wanting.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.wanting
  %wanting = load atomic i32, ptr %wanting.p acquire, align 4
  %somebody = icmp ne i32 %wanting, 0
  %other = select i1 %somebody, i32 $ATTENTION_LINES, i32 0
  %all = or i32 %own, %other
  ret i32 %all

done:
  ret i32 %wants
}

; Under the device's lock: attention for Python, which stays in the header; and CLAIMED
; if lines with native sinks changed, which this thread has claimed.
define internal i32 @sort_attention(ptr %bus, i32 %number, ptr %state) {
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %deadline = and i32 %attention, $ATTENTION_DEADLINE
  %still = icmp eq i32 %deadline, 0
  br i1 %still, label %others, label %moved

moved:
  call void @deadline_moved(ptr %bus)
  br label %others

others:
  %not_deadline = xor i32 %attention, %deadline
  %device = call ptr @device(ptr %bus, i32 %number)
  %rest = call i32 @wanted_watch(ptr %device, ptr %state, i32 %not_deadline)
  store i32 %rest, ptr %attention.p
  %lines = and i32 %rest, $ATTENTION_LINES
  %calm = icmp eq i32 %lines, 0
  br i1 %calm, label %for_python, label %find_table

for_python:
  ret i32 %rest

find_table:
  %table = call ptr @table(ptr %bus, i32 %number)
  %none = icmp eq ptr %table, null
  br i1 %none, label %for_python, label %compare

compare:
  %changed = call { i1, i1 } @changed_lines(ptr %table, ptr %state)
  %native = extractvalue { i1, i1 } %changed, 0
  %python = extractvalue { i1, i1 } %changed, 1
  %without = xor i32 %rest, $ATTENTION_LINES
  %wants = select i1 %python, i32 %rest, i32 %without
  store i32 %wants, ptr %attention.p
  %claimed.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.claimed
  %claimed = load i32, ptr %claimed.p
  %free = icmp eq i32 %claimed, 0
  %to_claim = and i1 %native, %free
  br i1 %to_claim, label %claim, label %end

claim:
  store i32 1, ptr %claimed.p
  %with_claim = or i32 %wants, $CLAIMED
  ret i32 %with_claim

end:
  ret i32 %wants
}

; The attention, without WATCH if none of the observers concerned wants to be told.
define internal i32 @wanted_watch(ptr %device, ptr %state, i32 %attention) alwaysinline {
  %watch.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.watch
  %watch = load i32, ptr %watch.p
  %wanted.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.watch
  %wanted = load i32, ptr %wanted.p
  %told = and i32 %watch, %wanted
  store i32 %told, ptr %watch.p
  %nobody = icmp eq i32 %told, 0
  %without = and i32 %attention, $NOT_WATCH
  %result = select i1 %nobody, i32 %without, i32 %attention
  ret i32 %result
}

define internal ptr @table(ptr %bus, i32 %number) alwaysinline {
  %device = call ptr @device(ptr %bus, i32 %number)
  %table.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.lines
  %table = load ptr, ptr %table.p
  ret ptr %table
}

define internal ptr @device(ptr %bus, i32 %number) alwaysinline {
  %devices.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.devices
  %devices = load ptr, ptr %devices.p
  %device = getelementptr %DeviceEntry, ptr %devices, i32 %number
  ret ptr %device
}

; The present level and count of rises of line %index. A line from 32 on has pulses only.
define internal { i32, i32 } @line_now(ptr %table, ptr %state, i32 %index) alwaysinline {
  %lines.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.lines
  %lines = load i32, ptr %lines.p
  %has_level = icmp ult i32 %index, 32
  %shift = and i32 %index, 31
  %shifted = lshr i32 %lines, %shift
  %bit = and i32 %shifted, 1
  %level = select i1 %has_level, i32 %bit, i32 0
  %rises.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.rises
  %rises = load ptr, ptr %rises.p
  %own.p = getelementptr i32, ptr %rises, i32 %index
  %own = load i32, ptr %own.p
  %with_level = insertvalue { i32, i32 } poison, i32 %level, 0
  %result = insertvalue { i32, i32 } %with_level, i32 %own, 1
  ret { i32, i32 } %result
}

define internal ptr @line_entry(ptr %table, i32 %index) alwaysinline {
  %entries.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.lines
  %entries = load ptr, ptr %entries.p
  %entry = getelementptr %LineEntry, ptr %entries, i32 %index
  ret ptr %entry
}

define internal i1 @line_changed(ptr %table, ptr %state, ptr %entry, i32 %index) alwaysinline {
  %present = call { i32, i32 } @line_now(ptr %table, ptr %state, i32 %index)
  %level = extractvalue { i32, i32 } %present, 0
  %rises = extractvalue { i32, i32 } %present, 1
  %seen.level.p = getelementptr %LineEntry, ptr %entry, i32 0, i32 $LineEntry.level
  %seen.level = load i32, ptr %seen.level.p
  %seen.rises.p = getelementptr %LineEntry, ptr %entry, i32 0, i32 $LineEntry.rises
  %seen.rises = load i32, ptr %seen.rises.p
  %level.moved = icmp ne i32 %level, %seen.level
  %rises.moved = icmp ne i32 %rises, %seen.rises
  %moved = or i1 %level.moved, %rises.moved
  ret i1 %moved
}

; Whether a line with native sinks changed, and whether one of Python's did.
define internal { i1, i1 } @changed_lines(ptr %table, ptr %state) {
entry:
  %count.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.count
  %count = load i32, ptr %count.p
  br label %loop

loop:
  %index = phi i32 [ 0, %entry ], [ %next, %look ]
  %native = phi i1 [ false, %entry ], [ %native.after, %look ]
  %python = phi i1 [ false, %entry ], [ %python.after, %look ]
  %left = icmp ult i32 %index, %count
  br i1 %left, label %look, label %end

look:
  %line = call ptr @line_entry(ptr %table, i32 %index)
  %changed = call i1 @line_changed(ptr %table, ptr %state, ptr %line, i32 %index)
  %native.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.native
  %kind = load i32, ptr %native.p
  %is_native = icmp ne i32 %kind, 0
  %is_python = xor i1 %is_native, true
  %changed.native = and i1 %changed, %is_native
  %changed.python = and i1 %changed, %is_python
  %native.after = or i1 %native, %changed.native
  %python.after = or i1 %python, %changed.python
  %next = add i32 %index, 1
  br label %loop

end:
  %with_native = insertvalue { i1, i1 } poison, i1 %native, 0
  %result = insertvalue { i1, i1 } %with_native, i1 %python, 1
  ret { i1, i1 } %result
}

; Devices whose edges this thread delivers, in the order in which they were reached:
; numbers + 1, linked through their tables. 0: none.
%Queue = type { i32, i32 }

; %number, which this thread has claimed, comes last.
define internal void @append(ptr %bus, ptr %queue, i32 %number, i64 %instant) {
  %table = call ptr @table(ptr %bus, i32 %number)
  %instant.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.instant
  store i64 %instant, ptr %instant.p
  %next.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.next
  store i32 0, ptr %next.p
  %link = add i32 %number, 1
  %tail.p = getelementptr %Queue, ptr %queue, i32 0, i32 1
  %tail = load i32, ptr %tail.p
  store i32 %link, ptr %tail.p
  %empty = icmp eq i32 %tail, 0
  br i1 %empty, label %first, label %behind

first:
  store i32 %link, ptr %queue
  ret void

behind:
  %last = sub i32 %tail, 1
  %last.table = call ptr @table(ptr %bus, i32 %last)
  %last.next.p = getelementptr %LineTable, ptr %last.table, i32 0, i32 $LineTable.next
  store i32 %link, ptr %last.next.p
  ret void
}

; The first of the queue + 1, which is then no more in it; 0 if it is empty.
define internal i32 @pop(ptr %bus, ptr %queue) {
  %head = load i32, ptr %queue
  %empty = icmp eq i32 %head, 0
  br i1 %empty, label %done, label %unlink

unlink:
  %number = sub i32 %head, 1
  %table = call ptr @table(ptr %bus, i32 %number)
  %next.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.next
  %next = load i32, ptr %next.p
  store i32 %next, ptr %queue
  %was_last = icmp eq i32 %next, 0
  br i1 %was_last, label %emptied, label %done

emptied:
  %tail.p = getelementptr %Queue, ptr %queue, i32 0, i32 1
  store i32 0, ptr %tail.p
  br label %done

done:
  ret i32 %head
}

; Deliver for device %first, which this thread has claimed, and for those that its edges
; lead to: deliveries never nest. At most PROPAGATION rounds, then the claims are given
; up, and what is left waits for the next access to the device.
define internal void @deliver_all(ptr %bus, i32 %first, i64 %now) noinline {
entry:
  %queue = alloca %Queue
  store %Queue zeroinitializer, ptr %queue
  call void @append(ptr %bus, ptr %queue, i32 %first, i64 %now)
  br label %round

round:
  %rounds = phi i32 [ $PROPAGATION, %entry ], [ %rounds.left, %requeue ], [ %rounds.left, %unclaim ]
  %link = call i32 @pop(ptr %bus, ptr %queue)
  %empty = icmp eq i32 %link, 0
  br i1 %empty, label %done, label %begin

begin:
  %number = sub i32 %link, 1
  %device = call ptr @device(ptr %bus, i32 %number)
  %state = load ptr, ptr %device
  %table = call ptr @table(ptr %bus, i32 %number)
  %instant.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.instant
  %instant = load i64, ptr %instant.p
  %rounds.left = call i32 @llvm.usub.sat.i32(i32 %rounds, i32 1)
  %spent = icmp eq i32 %rounds, 0
  br i1 %spent, label %cut, label %serve

serve:
  call void @deliver_lines(ptr %bus, ptr %queue, ptr %table, ptr %state, i64 %instant)
  br label %look_again

cut:
  %cut.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.cut
  %was_cut = atomicrmw add ptr %cut.p, i64 1 monotonic
  br label %look_again

look_again:
  call void @hold(ptr %state)
  %changed = call { i1, i1 } @changed_lines(ptr %table, ptr %state)
  %native = extractvalue { i1, i1 } %changed, 0
  %python = extractvalue { i1, i1 } %changed, 1
  call void @tell_of_lines(ptr %bus, ptr %state, i1 %python)
  %in_time = xor i1 %spent, true
  %again = and i1 %native, %in_time
  br i1 %again, label %requeue, label %unclaim

requeue:
  call void @let_go(ptr %state)
  call void @append(ptr %bus, ptr %queue, i32 %number, i64 %instant)
  br label %round

; What is left if it was cut waits for the next access.
unclaim:
  %claimed.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.claimed
  store i32 0, ptr %claimed.p
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %left = select i1 %native, i32 $ATTENTION_LINES, i32 0
  %attention.left = or i32 %attention, %left
  store i32 %attention.left, ptr %attention.p
  call void @let_go(ptr %state)
  br label %round

done:
  ret void
}

; Under the device's lock: have Python told of its lines, if it is not yet.
define internal void @tell_of_lines(ptr %bus, ptr %state, i1 %python) {
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %lines = and i32 %attention, $ATTENTION_LINES
  %unsaid = icmp eq i32 %lines, 0
  %to_tell = and i1 %python, %unsaid
  br i1 %to_tell, label %tell, label %done

tell:
  %more = or i32 %attention, $ATTENTION_LINES
  store i32 %more, ptr %attention.p
  call void @want_python(ptr %bus)
  br label %done

done:
  ret void
}

define internal void @want_python(ptr %bus) {
  %wanting.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.wanting
  store atomic i32 1, ptr %wanting.p release, align 4
  ret void
}

; A line's entry as @take_line took it, and the address and data of its message.
%Taken = type { %LineEntry, i64, i64 }

; Deliver each line of a device that changed, once, lowest first.
define internal void @deliver_lines(ptr %bus, ptr %queue, ptr %table, ptr %state, i64 %now) {
entry:
  %taken = alloca %Taken
  %count.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.count
  %count = load i32, ptr %count.p
  br label %loop

loop:
  %from = phi i32 [ 0, %entry ], [ %next, %edges ]
  call void @hold(ptr %state)
  %index = call i32 @take_line(ptr %table, ptr %state, i32 %from, i32 %count, ptr %taken)
  %routes.p = getelementptr %LineTable, ptr %table, i32 0, i32 $LineTable.routes
  %routes = load ptr, ptr %routes.p
  call void @let_go(ptr %state)
  %some = icmp ult i32 %index, %count
  br i1 %some, label %edges, label %done

edges:
  call void @deliver_edges(ptr %bus, ptr %queue, ptr %routes, ptr %taken, i64 %now)
  %next = add i32 %index, 1
  br label %loop

done:
  ret void
}

; Python has called into device %number itself, and its sinks know of its lines' edges:
; deliver those of the other lines. What is left for Python.
define i32 @devc_deliver(ptr %bus, i32 %number, i64 %now) {
  %device = call ptr @device(ptr %bus, i32 %number)
  %state = load ptr, ptr %device
  call void @hold(ptr %state)
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %with_lines = or i32 %attention, $ATTENTION_LINES
  store i32 %with_lines, ptr %attention.p
  %left = call i32 @settle_attention(ptr %bus, i32 %number, ptr %state, i64 %now)
  ret i32 %left
}

declare i32 @llvm.usub.sat.i32(i32, i32)
