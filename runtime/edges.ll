; Taking what a line did, and telling its routes: functions, wires to inputs, messages.
; Goes after delivery.ll.

; Under the device's lock: the first line with native sinks from %from on that changed, else
; %count. Its entry is brought up to date; %taken has the routes, the level that the sinks
; saw last, and in `edges` how many are to come.
define internal i32 @take_line(ptr %table, ptr %state, i32 %from, i32 %count, ptr %taken) {
entry:
  br label %loop

loop:
  %index = phi i32 [ %from, %entry ], [ %next, %skip ]
  %left = icmp ult i32 %index, %count
  br i1 %left, label %look, label %none

look:
  %line = call ptr @line_entry(ptr %table, i32 %index)
  %changed = call i1 @line_changed(ptr %table, ptr %state, ptr %line, i32 %index)
  %native.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.native
  %kind = load i32, ptr %native.p
  %is_native = icmp ne i32 %kind, 0
  %found = and i1 %changed, %is_native
  br i1 %found, label %take, label %skip

skip:
  %next = add i32 %index, 1
  br label %loop

none:
  ret i32 %count

take:
  %copy = load %LineEntry, ptr %line
  store %LineEntry %copy, ptr %taken
  %address.place.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.address_at
  %address.place = load i32, ptr %address.place.p
  %address = call i64 @carried(ptr %state, i32 %address.place)
  %address.p = getelementptr %Taken, ptr %taken, i32 0, i32 1
  store i64 %address, ptr %address.p
  %data.place.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.data_at
  %data.place = load i32, ptr %data.place.p
  %data = call i64 @carried(ptr %state, i32 %data.place)
  %data.p = getelementptr %Taken, ptr %taken, i32 0, i32 2
  store i64 %data, ptr %data.p
  %present = call { i32, i32 } @line_now(ptr %table, ptr %state, i32 %index)
  %level = extractvalue { i32, i32 } %present, 0
  %rises = extractvalue { i32, i32 } %present, 1
  %seen.level.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.level
  %seen.level = load i32, ptr %seen.level.p
  %seen.rises.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.rises
  %seen.rises = load i32, ptr %seen.rises.p
  store i32 %level, ptr %seen.level.p
  store i32 %rises, ptr %seen.rises.p
  %counted = sub i32 %rises, %seen.rises
  %higher = icmp ugt i32 %level, %seen.level
  %one = zext i1 %higher to i32
  ; A rise that the counter does not know of.
  %at_least = call i32 @llvm.umax.i32(i32 %counted, i32 %one)
  %rose = zext i32 %at_least to i64
  %twice = shl i64 %rose, 1
  %seen.wide = zext i32 %seen.level to i64
  %level.wide = zext i32 %level to i64
  %from_seen = add i64 %twice, %seen.wide
  %toggles = sub i64 %from_seen, %level.wide
  ; More pulses than a sink is told of one by one are merged.
  %odd = and i64 %toggles, 1
  %limit.even = shl i64 $PULSES_A_DELIVERY, 1
  %limit = or i64 %limit.even, %odd
  %delivered = call i64 @llvm.umin.i64(i64 %toggles, i64 %limit)
  %too_many = sub i64 %toggles, %delivered
  %pulses = lshr i64 %too_many, 1
  %merged.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.merged
  %merged = load i64, ptr %merged.p
  %merged.after = add i64 %merged, %pulses
  store i64 %merged.after, ptr %merged.p
  %edges.p = getelementptr %LineEntry, ptr %line, i32 0, i32 $LineEntry.edges
  %edges = load i64, ptr %edges.p
  %edges.after = add i64 %edges, %delivered
  store i64 %edges.after, ptr %edges.p
  %taken.edges.p = getelementptr %LineEntry, ptr %taken, i32 0, i32 $LineEntry.edges
  store i64 %delivered, ptr %taken.edges.p
  ret i32 %index
}

; A carried value: %place is 16 times its offset in the state, and its size in bytes.
define internal i64 @carried(ptr %state, i32 %place) {
  %offset = lshr i32 %place, 4
  %size = and i32 %place, 15
  %value.p = getelementptr i8, ptr %state, i32 %offset
  switch i32 %size, label %none [
    i32 1, label %one
    i32 2, label %two
    i32 4, label %four
    i32 8, label %eight
  ]

none:
  ret i64 0

one:
  %value8 = load i8, ptr %value.p
  %wide8 = zext i8 %value8 to i64
  ret i64 %wide8

two:
  %value16 = load i16, ptr %value.p
  %wide16 = zext i16 %value16 to i64
  ret i64 %wide16

four:
  %value32 = load i32, ptr %value.p
  %wide32 = zext i32 %value32 to i64
  ret i64 %wide32

eight:
  %value64 = load i64, ptr %value.p
  ret i64 %value64
}

; Tell every route of a line that @take_line took of each of its edges.
define internal void @deliver_edges(ptr %bus, ptr %queue, ptr %routes, ptr %taken, i64 %now) {
entry:
  %level.p = getelementptr %LineEntry, ptr %taken, i32 0, i32 $LineEntry.level
  %seen = load i32, ptr %level.p
  %edges.p = getelementptr %LineEntry, ptr %taken, i32 0, i32 $LineEntry.edges
  %edges = load i64, ptr %edges.p
  %first.p = getelementptr %LineEntry, ptr %taken, i32 0, i32 $LineEntry.first
  %first = load i32, ptr %first.p
  %count.p = getelementptr %LineEntry, ptr %taken, i32 0, i32 $LineEntry.route_count
  %count = load i32, ptr %count.p
  br label %edge

edge:
  %edges.left = phi i64 [ %edges, %entry ], [ %edges.fewer, %route ]
  %before = phi i32 [ %seen, %entry ], [ %level, %route ]
  %level = xor i32 %before, 1
  %over = icmp eq i64 %edges.left, 0
  br i1 %over, label %done, label %begin

begin:
  %edges.fewer = sub i64 %edges.left, 1
  br label %route

route:
  %index = phi i32 [ 0, %begin ], [ %next, %told ]
  %some = icmp ult i32 %index, %count
  br i1 %some, label %tell, label %edge

tell:
  %number = add i32 %first, %index
  %route.p = getelementptr %LineRoute, ptr %routes, i32 %number
  %function = load ptr, ptr %route.p
  %kind.p = getelementptr %LineRoute, ptr %routes, i32 %number, i32 $LineRoute.kind
  %kind = load i32, ptr %kind.p
  %context.p = getelementptr %LineRoute, ptr %routes, i32 %number, i32 $LineRoute.context
  %argument.p = getelementptr %LineRoute, ptr %routes, i32 %number, i32 $LineRoute.argument
  %argument = load i64, ptr %argument.p
  %context = load ptr, ptr %context.p
  switch i32 %kind, label %message [
    i32 $ROUTE_CALL, label %call
    i32 $ROUTE_WIRE, label %wire
  ]

call:
  call void %function(ptr %context, i64 %argument, i32 %level, i64 %now)
  br label %told

wire:
  call void @drive_input(ptr %bus, ptr %queue, ptr %context, i32 %level, i64 %now)
  br label %told

message:
  %rises = icmp ne i32 %level, 0
  br i1 %rises, label %send, label %told

send:
  %address.p = getelementptr %Taken, ptr %taken, i32 0, i32 1
  %address = load i64, ptr %address.p
  %data.p = getelementptr %Taken, ptr %taken, i32 0, i32 2
  %data.wide = load i64, ptr %data.p
  %data = trunc i64 %data.wide to i32
  call void %function(ptr %context, i64 %address, i32 %data)
  br label %told

told:
  %next = add i32 %index, 1
  br label %route

done:
  ret void
}

; A source of an input has risen or fallen; the input follows if no other source is high.
; The device's own edges are delivered afterwards, by this thread or by one that is at it.
define internal void @drive_input(ptr %bus, ptr %queue, ptr %input, i32 %level, i64 %now) {
  %number.p = getelementptr %InputEntry, ptr %input, i32 0, i32 $InputEntry.device
  %number = load i32, ptr %number.p
  %device = call ptr @device(ptr %bus, i32 %number)
  %state = load ptr, ptr %device
  call void @hold(ptr %state)
  %high.p = getelementptr %InputEntry, ptr %input, i32 0, i32 $InputEntry.high
  %high = load i32, ptr %high.p
  %twice = shl i32 %level, 1
  %change = sub i32 %twice, 1
  %high.after = add i32 %high, %change
  store i32 %high.after, ptr %high.p
  %follows = icmp eq i32 %high.after, %level
  br i1 %follows, label %drive, label %stays

stays:
  call void @let_go(ptr %state)
  ret void

drive:
  %at = call i64 @arrival(ptr %state, i64 %now)
  call void @set_input(ptr %device, ptr %state, ptr %input, i32 %level, i64 %at)
  %wants = call i32 @sort_attention(ptr %bus, i32 %number, ptr %state)
  call void @let_go(ptr %state)
  %for_python = and i32 %wants, $NOT_CLAIMED
  %calm = icmp eq i32 %for_python, 0
  br i1 %calm, label %own_edges, label %tell

tell:
  call void @want_python(ptr %bus)
  br label %own_edges

own_edges:
  %claimed = icmp slt i32 %wants, 0
  br i1 %claimed, label %queue_up, label %done

queue_up:
  call void @append(ptr %bus, ptr %queue, i32 %number, i64 %at)
  br label %done

done:
  ret void
}

; Under the device's lock: all up to %now is accounted for, then the level is another.
define internal void @set_input(ptr %device, ptr %state, ptr %input, i32 %level, i64 %now) {
  %settle.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.settle
  %settle = load ptr, ptr %settle.p
  call void %settle(ptr %state, i64 %now)
  %place = load i64, ptr %input
  %offset = lshr i64 %place, 3
  %byte.p = getelementptr i8, ptr %state, i64 %offset
  %place8 = trunc i64 %place to i8
  %bit = and i8 %place8, 7
  %mask = shl i8 1, %bit
  %others.mask = xor i8 %mask, -1
  %level8 = trunc i32 %level to i8
  %placed = shl i8 %level8, %bit
  %old = load i8, ptr %byte.p
  %others = and i8 %old, %others.mask
  %new = or i8 %others, %placed
  store i8 %new, ptr %byte.p
  %commit.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.commit
  %commit = load ptr, ptr %commit.p
  call void %commit(ptr %state, i64 %now)
  ret void
}

declare i32 @llvm.umax.i32(i32, i32)
