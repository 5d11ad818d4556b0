; Serving by compiled handlers of Python parts (numba_tier.py) what a device's
; own handlers left with ATTENTION_LEAVE. Goes after dispatch.ll.

; Serve one piece of a region's, under its device's lock. Returns whether that was
; done, and the answer to a read. If there is no such handler or it failed, nothing
; has happened: the interpreter serves the access then.
define internal { i1, i64 } @serve_compiled(ptr %bus, ptr %entry, ptr %state, i32 %write, i64 %now, i32 %offset, i32 %piece, i64 %value) noinline {
  %answer.p = alloca i64
  store i64 0, ptr %answer.p
  %number.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.device
  %number = load i32, ptr %number.p
  %devices.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.devices
  %devices = load ptr, ptr %devices.p
  %device = getelementptr %DeviceEntry, ptr %devices, i32 %number
  %count.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.handler_count
  %count = load i32, ptr %count.p
  %leave.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.leave
  %leave = load i32, ptr %leave.p
  %known = icmp ult i32 %leave, %count
  br i1 %known, label %look_up, label %unserved

look_up:
  %handlers.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.handlers
  %handlers = load ptr, ptr %handlers.p
  %handler.p = getelementptr %HandlerEntry, ptr %handlers, i32 %leave, i32 $HandlerEntry.read
  %write_handler.p = getelementptr %HandlerEntry, ptr %handlers, i32 %leave, i32 $HandlerEntry.write
  %is_write = icmp ne i32 %write, 0
  %wanted.p = select i1 %is_write, ptr %write_handler.p, ptr %handler.p
  %handler = load ptr, ptr %wanted.p
  %none = icmp eq ptr %handler, null
  br i1 %none, label %unserved, label %call

call:
  %status = call i32 %handler(ptr %state, i64 %now, i32 %offset, i32 %piece, i64 %value, ptr %answer.p)
  %failed = icmp eq i32 %status, $HANDLER_FAILED
  br i1 %failed, label %unserved, label %served

served:
  %changed = icmp eq i32 %status, $HANDLER_CHANGED
  br i1 %changed, label %commit, label %done

commit:
  %commit.p = getelementptr %DeviceEntry, ptr %device, i32 0, i32 $DeviceEntry.commit
  %commit_fn = load ptr, ptr %commit.p
  call void %commit_fn(ptr %state, i64 %now)
  br label %done

done:
  %answer = load i64, ptr %answer.p
  %result = insertvalue { i1, i64 } { i1 true, i64 0 }, i64 %answer, 1
  ret { i1, i64 } %result

unserved:
  ret { i1, i64 } zeroinitializer
}
