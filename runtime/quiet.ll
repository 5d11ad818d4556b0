; Reads that change nothing, without the device's lock (docs/threads.md). Goes after locks.ll.
;
; Each thread has a copy of the state, of which it fetches what the read depends on
; (compiler/traffic.py); the handler then works on the copy. The device's version tells
; whether what was fetched was of one piece.

; The answer, and whether there is one: not if this read may change something, if an
; event is due, or if somebody is at work on the device. Then the lock must be taken.
define internal { i64, i1 } @read_quietly(ptr %quiet, ptr %access, ptr %state, ptr %read, i64 %now, i32 %offset, i32 %width) noinline {
entry:
  %limit.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.limit
  %limit = load i32, ptr %limit.p
  %known = icmp ult i32 %offset, %limit
  %width.less = sub i32 %width, 1
  %usual = icmp ult i32 %width.less, 8
  %listed = and i1 %known, %usual
  br i1 %listed, label %look_up, label %lock

look_up:
  %row = shl i32 %offset, 3
  %cell = or i32 %row, %width.less
  %index.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.index
  %index = load ptr, ptr %index.p
  %set.p = getelementptr i8, ptr %index, i32 %cell
  %set = load i8, ptr %set.p
  %loud = icmp eq i8 %set, 0
  br i1 %loud, label %lock, label %begin

begin:
  %version.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.version
  %version = load atomic i32, ptr %version.p acquire, align 4
  %odd = trunc i32 %version to i1
  %guard_at.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.guard
  %guard_at = load i32, ptr %guard_at.p
  %guard.p = getelementptr i8, ptr %state, i32 %guard_at
  %guard = load atomic i64, ptr %guard.p monotonic, align 8
  %settled.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.settled
  %settled = load atomic i64, ptr %settled.p monotonic, align 8
  %at = call i64 @llvm.umax.i64(i64 %settled, i64 %now)
  %due = icmp ule i64 %guard, %at
  %not_now = or i1 %odd, %due
  br i1 %not_now, label %lock, label %which

; The thread's copy lies behind the word that says of which history it is.
which:
  %copies.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.copies
  %copies = load ptr, ptr %copies.p
  %stride.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.stride
  %stride = load i32, ptr %stride.p
  %lane.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.lane
  %lane = load i32, ptr %lane.p
  %copy.at = mul i32 %lane, %stride
  %own = getelementptr i8, ptr %copies, i32 %copy.at
  %copy = getelementptr i8, ptr %own, i32 $QUIET_HEAD
  %epoch.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.epoch
  %epoch = load atomic i32, ptr %epoch.p monotonic, align 4
  %own.epoch = load i32, ptr %own
  %current = icmp eq i32 %epoch, %own.epoch
  %words.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.words
  %words = load ptr, ptr %words.p
  %sets.p = getelementptr %QuietRegion, ptr %quiet, i32 0, i32 $QuietRegion.sets
  %sets = load ptr, ptr %sets.p
  ; The first set is of the whole state.
  %chosen = select i1 %current, i8 %set, i8 0
  %chosen.wide = zext i8 %chosen to i32
  %first.p = getelementptr %QuietSet, ptr %sets, i32 %chosen.wide, i32 $QuietSet.first
  %first = load i32, ptr %first.p
  %count.p = getelementptr %QuietSet, ptr %sets, i32 %chosen.wide, i32 $QuietSet.count
  %count = load i32, ptr %count.p
  %end = add i32 %first, %count
  br label %fetch

fetch:
  %number = phi i32 [ %first, %which ], [ %next, %fetch_one ]
  %more = icmp ult i32 %number, %end
  br i1 %more, label %fetch_one, label %verify

fetch_one:
  %word.p = getelementptr i32, ptr %words, i32 %number
  %word = load i32, ptr %word.p
  %from = getelementptr i8, ptr %state, i32 %word
  %value = load atomic i64, ptr %from monotonic, align 8
  %to = getelementptr i8, ptr %copy, i32 %word
  store i64 %value, ptr %to
  %next = add i32 %number, 1
  br label %fetch

verify:
  fence acquire
  %version.after = load atomic i32, ptr %version.p monotonic, align 4
  %of_one_piece = icmp eq i32 %version, %version.after
  br i1 %of_one_piece, label %serve, label %torn

torn:
  store i32 0, ptr %own
  br label %lock

serve:
  store i32 %epoch, ptr %own
  %copy.version.p = getelementptr %StateHeader, ptr %copy, i32 0, i32 $StateHeader.version
  store i32 %version, ptr %copy.version.p
  %answer = call i64 %read(ptr %copy, i64 %at, i32 %offset, i32 %width)
  %answered = insertvalue { i64, i1 } { i64 0, i1 true }, i64 %answer, 0
  ret { i64, i1 } %answered

lock:
  ret { i64, i1 } zeroinitializer
}
